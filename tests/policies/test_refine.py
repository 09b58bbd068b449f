"""Descent on known energies: closed forms, hand recursions, independence of rows, stops, graphs."""

from __future__ import annotations

import math

import pytest
import torch

from robopolicy.core.errors import ConfigError, NonFiniteLoss, PolicyInterfaceError
from robopolicy.policies.ebt_config import RefineConfig
from robopolicy.policies.refine import Refiner


def refiner(**changes) -> Refiner:
    return Refiner(RefineConfig(**{"step_size": 1.0, "train_steps": 1, "extra_steps": 0, **changes}))


def quadratic(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return 0.5 * x.square().flatten(1).sum(1)


def mlp(dtype=torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).to(dtype)


def energy_of(net: torch.nn.Module):
    return lambda x, rows: net(x.flatten(1)).squeeze(1)


class TestStep:
    def test_quadratic_closed_form(self):
        """O2: x_K - m = (I - aH)^K (x_0 - m); one step of size 1 with H = I lands on m."""
        torch.manual_seed(0)
        root = torch.randn(6, 6, dtype=torch.float64) / 3
        hessian, mean = root @ root.T, torch.randn(6, dtype=torch.float64)

        def energy(x, rows):
            d = x.flatten(1) - mean
            return 0.5 * (d @ hessian * d).sum(1)

        x0 = torch.randn(4, 3, 2, dtype=torch.float64)
        out, _ = refiner(max_steps=7).descend(energy, x0, 0.3)
        power = torch.linalg.matrix_power(torch.eye(6, dtype=torch.float64) - 0.3 * hessian, 7)
        assert torch.allclose(out.flatten(1) - mean, (x0.flatten(1) - mean) @ power.T, atol=1e-12)
        there, _ = refiner(max_steps=1).descend(quadratic, x0, 1.0)
        assert there.abs().max() < 1e-12

    def test_nesterov_by_hand(self):
        """O3."""
        x0 = torch.ones(1, 1, 1, dtype=torch.float64)
        seen = [float(refiner(momentum=0.9, max_steps=k).descend(quadratic, x0, 0.1)[0]) for k in range(1, 6)]
        assert seen == pytest.approx([0.9, 0.729, 0.51759, 0.294589, 0.084499], abs=1e-6)

    def test_energy_scaled_step(self):
        """O4."""
        r = refiner(scaling="exp", tau=9.0)
        steps = r.scale(torch.tensor([0.0, math.log(9.0)]), 1000.0)
        assert steps.tolist() == pytest.approx([111.111, 1000.0], rel=1e-5)
        assert (r.scale(torch.linspace(-4, 4, 9), 1.0).diff() > 0).all()
        assert r.scale(torch.tensor([80.0]), 1.0).isfinite().all()  # clamped before exp

    def test_noise_schedule(self):
        """O5."""
        sigmas = refiner(noise_max=0.2, noise_min=0.002).sigma(torch.arange(6), 6)
        assert sigmas.tolist() == pytest.approx([0.2, 0.18674, 0.1505, 0.101, 0.0515, 0.01526], abs=1e-5)
        assert sigmas[-1] > 0.002

    def test_rms_norm(self):
        """O6."""
        x = torch.tensor([[[3.0, 4.0]], [[0.0, 5.0]]])
        joint = refiner(norm="batch").normalise(x)
        assert torch.allclose(joint, torch.tensor([[[0.848528, 1.131371]], [[0.0, 1.414214]]]), atol=1e-6)
        alone = refiner(norm="sample").normalise(x)
        assert torch.allclose(alone[0], refiner(norm="sample").normalise(x[:1])[0])
        assert torch.allclose(alone.square().mean((1, 2)), torch.ones(2))

    def test_offset(self):
        """O19: a constant in E moves no plain descent, and multiplies energy-scaled steps by its exponential."""
        x = torch.randn(2, 3, 2, dtype=torch.float64)

        def raised(y, rows):
            return quadratic(y, rows) * 0.1 + 0.5

        def level(y, rows):
            return quadratic(y, rows) * 0.1

        plain = [refiner(max_steps=3).descend(e, x, 0.2)[0] for e in (level, raised)]
        assert torch.equal(*plain)
        scaled = [refiner(max_steps=1, scaling="exp").descend(e, x, 0.2)[0] - x for e in (level, raised)]
        assert torch.allclose(scaled[1], scaled[0] * math.exp(0.5))


class TestInference:
    @pytest.mark.parametrize("norm", ["none", "sample", "batch"])
    def test_rows_are_independent(self, norm):
        """O7; the joint norm is the published exception."""
        torch.manual_seed(0)
        x, energy = torch.randn(8, 3, 2), energy_of(mlp(torch.float32))
        r = refiner(norm=norm, max_steps=4)
        gap = (r.descend(energy, x, 0.5)[0][0] - r.descend(energy, x[:1], 0.5)[0][0]).abs().max()
        assert (gap < 1e-6) == (norm != "batch")

    def test_step_counts(self):
        """O8: two with max_steps=2; with stops between two and max_steps, each row by its own."""
        x = torch.tensor([1e-6, 0.1, 1.0, 100.0]).view(4, 1, 1)
        assert refiner(max_steps=2).descend(quadratic, x, 0.5)[1].steps.tolist() == [2] * 4
        r = refiner(max_steps=9, min_gradient=1e-2)
        out, trace = r.descend(quadratic, x, 0.5)
        # |g| = |x| halves each step; the first gradient below 0.01 is the row's last but one.
        assert trace.steps.tolist() == [2, 6, 9, 9]
        assert trace.gradient[1, :6].tolist() == pytest.approx([0.1 / 2**k for k in range(6)])
        assert trace.gradient[1, 6:].isnan().all()
        assert out.flatten().tolist() == pytest.approx((x.flatten() / 2.0**trace.steps).tolist())
        alone = [r.descend(quadratic, x[i : i + 1], 0.5)[0] for i in range(4)]
        assert torch.equal(out, torch.cat(alone))

    @pytest.mark.parametrize("stop", [{"tolerance": 0.1}, {"min_energy_change": 0.01}])
    def test_other_stops(self, stop):
        steps = refiner(max_steps=30, **stop).descend(quadratic, torch.ones(1, 1, 1), 0.5)[1].steps
        assert 2 < int(steps) < 10

    def test_no_grad_and_inference_mode(self):
        """O18."""
        net = mlp()
        x = torch.randn(2, 3, 2, dtype=torch.float64)
        with torch.no_grad():
            out, _ = refiner(max_steps=3).descend(energy_of(net), x, 0.5)
        assert not out.requires_grad
        assert all(p.grad is None for p in net.parameters())
        with torch.inference_mode(), pytest.raises(PolicyInterfaceError, match="inference_mode"):
            refiner(max_steps=3).descend(energy_of(net), x, 0.5)

    def test_non_finite_step_is_named(self):
        """O21."""

        def broken(x, rows):
            total = x.flatten(1).sum(1)
            return total * torch.where(total.detach() < 2.0, torch.inf, 1.0)

        with pytest.raises(NonFiniteLoss, match=r"refinement step 1.*row 0"):
            refiner(max_steps=4).descend(broken, torch.full((2, 1, 1), 2.5), 1.0)


class TestTraining:
    def test_second_order_gradient(self):
        """O1: through two coupled steps, against central differences."""
        net, target = mlp(), torch.randn(4, 3, 2, dtype=torch.float64)
        x0, steps = torch.randn(4, 3, 2, dtype=torch.float64), torch.full((4,), 2)
        r = refiner(detach=False, scaling="exp", momentum=0.5)

        def loss(graph: bool) -> torch.Tensor:
            return (r.unroll(energy_of(net), x0, steps, 0.7, graph=graph).last - target).square().mean()

        loss(True).backward()
        weight = net[0].weight
        with torch.no_grad():
            for at in [(0, 0), (3, 2), (15, 5)]:
                values = []
                for sign in (1, -1):
                    weight[at] += sign * 1e-5
                    values.append(float(loss(False)))
                    weight[at] -= sign * 1e-5
                numeric = (values[0] - values[1]) / 2e-5
                assert float(weight.grad[at]) == pytest.approx(numeric, rel=1e-6)

    def gradient(self, x0, steps, **changes) -> torch.Tensor:
        net = mlp()
        r = refiner(momentum=0.5, **changes)
        r.unroll(energy_of(net), x0, steps, 0.7).last.square().mean().backward()
        return net[0].weight.grad

    def test_truncated_graph(self):
        """O9: the gradient is that of the last step alone; without detach it is another."""
        x0, steps = torch.randn(4, 3, 2, dtype=torch.float64), torch.full((4,), 3)
        net, r = mlp(), refiner(momentum=0.5)
        with torch.no_grad():
            quiet = r.unroll(energy_of(net), x0, steps, 0.7, graph=False)
        rows, sizes = torch.arange(4), torch.full((4,), 0.7, dtype=torch.float64)
        r.finish(energy_of(net), quiet.before, steps, sizes, None, True, rows).square().mean().backward()
        assert torch.allclose(self.gradient(x0, steps), net[0].weight.grad, atol=1e-15)
        assert (self.gradient(x0, steps, detach=False) - net[0].weight.grad).abs().max() > 1e-6

    def test_detached_from_the_start(self):
        """O10."""
        x0 = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
        for truncate in (True, False):
            last = refiner(truncate=truncate).unroll(energy_of(mlp()), x0, torch.tensor([2, 3]), 0.7).last
            assert torch.autograd.grad(last.sum(), x0, allow_unused=True)[0] is None
        last = refiner(detach=False).unroll(energy_of(mlp()), x0, torch.tensor([2, 3]), 0.7).last
        assert torch.autograd.grad(last.sum(), x0)[0].abs().max() > 0

    @pytest.mark.parametrize("mode", [{}, {"truncate": False}, {"detach": False}])
    def test_samples_with_different_steps(self, mode):
        """Each as if it were alone, noise included."""
        torch.manual_seed(1)
        x0, noise = torch.randn(3, 3, 2, dtype=torch.float64), torch.randn(3, 4, 3, 2, dtype=torch.float64)
        steps, r = torch.tensor([1, 4, 2]), refiner(noise_max=0.1, momentum=0.5, **mode)
        together = r.unroll(energy_of(mlp()), x0, steps, 0.7, noise=noise).last
        for i in range(3):
            one = slice(i, i + 1)
            alone = r.unroll(energy_of(mlp()), x0[one], steps[one], 0.7, noise=noise[one]).last
            assert torch.allclose(together[one], alone, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"step_size": 0.0}, "step_size"),
        ({"momentum": 1.0}, "momentum"),
        ({"noise_min": 0.1}, "noise_min"),
        ({"noise_at_inference": 1.0}, "noise_max"),
        ({"step_jitter": 0.5}, "step_jitter"),
        ({"max_steps": 0}, "max_steps"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"gradient_clamp": 0.0}, "gradient_clamp"),
    ],
)
def test_impossible_options(change, word):
    with pytest.raises(ConfigError, match=word):
        RefineConfig(**change)
