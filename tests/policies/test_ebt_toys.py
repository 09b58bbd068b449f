"""What the objectives learn, on two-number actions: collapse and coverage of modes, few steps, effort off the data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robopolicy.policies.ebt_config import RefineConfig
from robopolicy.policies.energy_objectives import Descent, closest_loss, paper_loss
from robopolicy.policies.refine import Refiner

BATCH = 128


def two_modes(c: Tensor, sign: Tensor) -> Tensor:
    """``(B, 1, 2)``: the first action +-(0.5 + 0.3 c) with equal probability, the second 0.4 c."""
    return torch.stack((sign * (0.5 + 0.3 * c), 0.4 * c), dim=1).unsqueeze(1)


def one_mode(c: Tensor, sign: Tensor) -> Tensor:
    return two_modes(c, torch.ones_like(sign))


class Toy:
    """An energy of a condition and an action, trained as ``EbtPolicy`` trains its own."""

    def __init__(self, data: Callable[[Tensor, Tensor], Tensor], objective: str, iterations: int) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
        self.refiner = Refiner(RefineConfig(train_steps=2, extra_steps=0))
        starts = 8 if objective == "wta" else 1
        optimizer = torch.optim.Adam(self.net.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        for _ in range(iterations):
            c = torch.rand(BATCH) * 2 - 1
            descent = Descent(
                refiner=self.refiner,
                energy=self.energy(c),
                step_size=1.0,
                start=torch.randn(BATCH, starts, 1, 2),
                steps=torch.full((BATCH,), 2),
                factors=torch.ones(BATCH),
                noise=None,
                target=data(c, torch.randint(2, (BATCH,)) * 2.0 - 1),
                mask=None,
                channels=None,
            )
            loss = (closest_loss if objective == "wta" else paper_loss)(descent, True)[0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def energy(self, c: Tensor):
        return lambda x, rows: self.net(torch.cat((x.flatten(1), c[rows].unsqueeze(1)), dim=1)).squeeze(1)

    def run(self, c: Tensor, step_size: float = 1.0, **changes):
        torch.manual_seed(1)
        refiner = Refiner(RefineConfig(**changes))
        return refiner.descend(self.energy(c), torch.randn(len(c), 1, 2), step_size)


@pytest.fixture(scope="module")
def unimodal() -> Toy:
    return Toy(one_mode, "paper", 500)


@pytest.mark.slow
def test_paper_collapses_to_the_midpoint():
    """O12, first half: the published objective is least at the mean of the modes."""
    c = torch.rand(500) * 2 - 1
    out, _ = Toy(two_modes, "paper", 500).run(c, max_steps=2)
    middle = two_modes(c, torch.zeros_like(c))
    assert ((out - middle).flatten(1).norm(dim=1) < 0.15).float().mean() > 0.95


@pytest.mark.slow
def test_closest_of_several_starts_covers_the_modes():
    """O12, second half."""
    c = torch.rand(1000) * 2 - 1
    out, _ = Toy(two_modes, "wta", 1000).run(c, max_steps=5)
    near = [(out - two_modes(c, s * torch.ones_like(c))).flatten(1).norm(dim=1) < 0.1 for s in (1, -1)]
    shares = [float(n.float().mean()) for n in near]
    assert sum(shares) >= 0.9
    assert min(shares) >= 0.25


@pytest.mark.slow
class TestUnimodal:
    def error(self, toy: Toy, c: Tensor, steps: int) -> float:
        out, _ = toy.run(c, max_steps=steps)
        return float((out - one_mode(c, c)).square().mean().sqrt())

    def test_small_steps_never_climb(self, unimodal):
        """O11: without noise and with small steps, energies fall along at least 99 % of the trajectories."""
        trace = unimodal.run(torch.rand(500) * 2 - 1, step_size=0.05, max_steps=30)[1]
        assert ((trace.energy.diff(dim=1) <= 1e-6).all(1)).float().mean() >= 0.99

    def test_two_steps_suffice(self, unimodal):
        """O13: against the size of the start's error, two steps do as well as ten."""
        c = torch.rand(500) * 2 - 1
        two, ten = self.error(unimodal, c, 2), self.error(unimodal, c, 10)
        assert two < 0.05
        assert two < 1.1 * ten or two - ten < 0.01

    def test_more_effort_off_the_data(self, unimodal):
        """O14: with stops of its own, a sample takes more steps where the training data had nothing."""
        rules = {"max_steps": 20, "min_gradient": 0.02}
        inside = unimodal.run(torch.rand(500) * 2 - 1, **rules)[1].steps.float().mean()
        outside = unimodal.run(torch.rand(500) * 1.5 + 2.5, **rules)[1].steps.float().mean()
        assert outside > inside + 0.5
