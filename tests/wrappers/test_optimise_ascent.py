"""Projected gradient ascent against closed forms (PA-RL's oracles P1 to P4)."""

from __future__ import annotations

import math

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.wrappers.optimise_ascent import Ascent, AscentSettings, Limits, ascend


def quadratic(hessian, best):
    """Q = -1/2 (a - a*)' H (a - a*) of actions ``(B, K, 1, D)``."""
    h, star = torch.tensor(hessian, dtype=torch.float64), torch.tensor(best, dtype=torch.float64)
    return lambda a: -0.5 * torch.einsum("bki,ij,bkj->bk", a[:, :, 0] - star, h, a[:, :, 0] - star)


def point(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def boxed(start: torch.Tensor, reach: float | None = 1.0) -> Limits:
    free = Limits.free(start)
    return free if reach is None else Limits(free.low.clamp(min=-reach), free.high.clamp(max=reach), free.moves)


def climbed(value, start, reach=1.0, **settings) -> Ascent:
    return ascend(value, start, AscentSettings(**settings), boxed(start, reach))


P1 = quadratic([[1.0, 0.0], [0.0, 4.0]], [0.2, 2.0])


@pytest.mark.parametrize(
    ("reach", "steps", "where"),
    [(None, 10, (0.444075, 1.982465)), (1.0, 10, (0.444075, 1.0)), (1.0, 300, (0.2, 1.0))],
)
def test_p1_gradient_ascent_on_a_quadratic(reach, steps, where):
    found = climbed(P1, point(0.9, -0.9), reach, steps=steps, eta=0.1)
    torch.testing.assert_close(found.actions, point(*where), atol=1e-6, rtol=0)
    if reach is None:
        shrunk = [0.2 + 0.9**10 * 0.7, 2.0 + 0.6**10 * -2.9]
        torch.testing.assert_close(found.actions, point(*shrunk))


def test_p2_a_box_with_coupling_has_its_own_optimum():
    value = quadratic([[1.0, 0.8], [0.8, 1.0]], [0.0, 2.0])
    found = climbed(value, point(0.0, 0.0), steps=100, eta=0.9)
    torch.testing.assert_close(found.actions, point(0.8, 1.0), atol=1e-6, rtol=0)
    clipped_once = climbed(value, point(0.0, 0.0), None, steps=120, eta=0.9).actions.clamp(-1, 1)
    torch.testing.assert_close(clipped_once, point(0.0, 1.0), atol=1e-6, rtol=0)
    assert float(value(found.actions)) > float(value(clipped_once))


def test_p3_a_step_that_is_too_long_never_makes_a_candidate_worse():
    start = torch.randn(3, 5, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = climbed(P1, start, None, steps=10, eta=2.5 / 4)  # beyond 2 / 4, the limit of stability
    assert (found.values >= P1(start)).all()
    torch.testing.assert_close(found.values, P1(found.actions))
    torch.testing.assert_close(found.start_values, P1(start))
    last = start
    for _ in range(10):
        last = last + 2.5 / 4 * torch.tensor([1.0, 4.0]) * (torch.tensor([0.2, 2.0]) - last)
    assert (P1(last) < P1(start)).any()  # it does diverge


def test_p4_a_linear_value_moves_by_steps_times_eta_times_its_slope():
    slope = torch.tensor([0.5, -2.0], dtype=torch.float64)
    start = point(0.1, 0.2)
    found = climbed(lambda a: (a[:, :, 0] * slope).sum(-1), start, steps=10, eta=3e-4)
    torch.testing.assert_close(found.actions, start + 10 * 3e-4 * slope)
    assert float((found.actions - start).norm()) <= 10 * 3e-4 * float(slope.norm()) * (1 + 1e-9)


def test_unit_steps_have_their_length_and_trust_keeps_to_its_ball():
    start = point(0.1, 0.2)
    steep = lambda a: 1e4 * a[:, :, 0].sum(-1)
    unit = climbed(steep, start, None, steps=4, eta=0.01, eta_mode="unit_norm")
    torch.testing.assert_close(unit.actions, start + 0.04 / math.sqrt(2))
    trust = climbed(steep, start, None, steps=4, eta=0.01, eta_mode="trust", radius=0.3)
    torch.testing.assert_close(trust.actions, start + 0.3 / math.sqrt(2))
    gentle = climbed(steep, start, None, steps=4, eta=1e-7, eta_mode="trust", radius=0.3)
    torch.testing.assert_close(gentle.actions, start + 4e-3)  # raw steps while they are short
    flat = climbed(lambda a: 0 * a[:, :, 0].sum(-1), start, None, steps=3, eta_mode="unit_norm")
    assert torch.equal(flat.actions, start)


def test_numbers_that_do_not_move_stay_to_the_bit_even_outside_the_box():
    start = point(1.7, 0.0, 0.3)
    limits = boxed(start)
    limits.moves[..., 0] = 0.0
    found = ascend(lambda a: a.flatten(2).sum(-1), start, AscentSettings(5, 0.1), limits)
    assert float(found.actions[..., 0]) == 1.7
    torch.testing.assert_close(found.actions[..., 1:], point(0.5, 0.8))


def test_candidates_climb_for_themselves_and_without_steps_nothing_happens():
    start = torch.randn(2, 3, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = climbed(P1, start, steps=5, eta=0.1)
    alone = climbed(P1, start[1:, 2:], steps=5, eta=0.1)
    torch.testing.assert_close(whole.actions[1:, 2:], alone.actions)
    still = climbed(P1, 3 * start, steps=0)
    assert torch.equal(still.actions, 3 * start)  # not even clipped


def test_error_row_impossible_settings():
    for changes, match in [({"steps": -1}, "steps"), ({"eta": 0.0}, "eta"), ({"radius": -1.0}, "radius")]:
        with pytest.raises(ConfigError, match=match):
            AscentSettings(**changes)
    with pytest.raises(ConfigError, match="eta_mode"):
        AscentSettings(eta_mode="newton")
