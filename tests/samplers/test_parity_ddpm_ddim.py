"""DDPM and DDIM against the diffusers schedulers: 20 seeds, every step count.

The diffusers schedulers keep ``alphas_cumprod`` in float32, where ``1 - alpha_bar`` loses digits near the clean end
(up to 3e-4 in a chunk).  Stock schedulers are compared where that stays below 1e-5; elsewhere they get the same
table in float64, which tests the formulas alone, and then the agreement is far below 1e-5.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from robopolicy.paths import Kind, VPDiscrete, canonical
from robopolicy.samplers.ddim import DDIM
from robopolicy.samplers.ddpm import DDPM

SHAPE = (20, 4, 2)
KINDS = {"epsilon": Kind.EPS, "sample": Kind.X0, "v_prediction": Kind.V}
FEW = (1, 2, 5, 13, 50, 100)


def latents(dtype: torch.dtype) -> Tensor:
    """One row a seed."""
    rows = [torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(s), dtype=dtype) for s in range(20)]
    return torch.stack(rows)


def net(z: Tensor, t: Tensor) -> Tensor:
    """A smooth stand-in for a trained network."""
    return torch.tanh(1.3 * z + 0.3) * (0.9 - 0.002 * t)


def theirs(scheduler, n: int, z: Tensor, **options) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    scheduler.set_timesteps(n)
    for t in scheduler.timesteps:
        z = scheduler.step(net(z, t), t, z, generator=generator, **options).prev_sample
    return z


def ours(sampler, path: VPDiscrete, kind: Kind, times: Tensor, z: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    noises = [torch.randn(z.shape, generator=generator, dtype=z.dtype) for _ in range(sampler.tape_len(len(times)))]
    tape = torch.stack(noises, 1) if noises else None
    return sampler(lambda z, t: canonical(kind, net(z, t), z, path, t), path, times, z, tape)


def build(cls, schedule: str, prediction: str, spacing: str, exact: bool, clip: bool = True):
    scheduler = cls(
        100,
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule=schedule,
        prediction_type=prediction,
        timestep_spacing=spacing,
        clip_sample=clip,
    )
    path = VPDiscrete.make(schedule, 100, 1e-4, 2e-2)
    if exact:
        scheduler.alphas_cumprod = path.alpha_bar.clone()
    return scheduler, path


def worst(scheduler, sampler, path, kind, spacing, counts, dtype, **options) -> float:
    z = latents(dtype)
    gaps = []
    for n in counts:
        scheduler.set_timesteps(n)
        if scheduler.timesteps[-1] < 0:
            assert len(scheduler.timesteps) == n + 1  # rounding gave theirs an extra entry t = -1: not a grid
            continue
        gap = ours(sampler, path, kind, path.grid(n, spacing), z) - theirs(scheduler, n, z, **options)
        gaps.append(gap.abs().max().item())
    assert len(gaps) >= 0.9 * len(counts)
    return max(gaps)


def test_stock_ddpm_as_diffusion_policy_uses_it_for_every_step_count():
    scheduler, path = build(DDPMScheduler, "squaredcos_cap_v2", "epsilon", "leading", exact=False)
    assert worst(scheduler, DDPM(), path, Kind.EPS, "leading", range(1, 101), torch.float32) < 1e-5


def test_stock_ddim_as_diffusion_policy_uses_it_for_every_step_count():
    scheduler, path = build(DDIMScheduler, "squaredcos_cap_v2", "epsilon", "leading", exact=False)
    assert worst(scheduler, DDIM(), path, Kind.EPS, "leading", range(1, 101), torch.float32) < 1e-5


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_ddpm_other_spacings_for_every_step_count(spacing):
    scheduler, path = build(DDPMScheduler, "squaredcos_cap_v2", "epsilon", spacing, exact=True)
    first = 2 if spacing == "linspace" else 1  # one linspace step of theirs starts at the clean end
    counts = range(first, 101)
    assert worst(scheduler, DDPM(), path, Kind.EPS, spacing, counts, torch.float64) < 1e-8


def test_ddim_trailing_wherever_theirs_stays_on_its_grid():
    """Theirs steps back by T // n, which is the trailing grid only where n divides T."""
    scheduler, path = build(DDIMScheduler, "squaredcos_cap_v2", "epsilon", "trailing", exact=True)
    divisors = [n for n in range(1, 101) if 100 % n == 0]
    assert worst(scheduler, DDIM(), path, Kind.EPS, "trailing", divisors, torch.float64) < 1e-8


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_where_theirs_leaves_its_grid_the_results_differ(spacing):
    scheduler, path = build(DDIMScheduler, "squaredcos_cap_v2", "epsilon", spacing, exact=True)
    assert worst(scheduler, DDIM(), path, Kind.EPS, spacing, [7], torch.float64) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("rederive", [False, True])
def test_ddim_noise_and_rederived_direction(eta, rederive):
    scheduler, path = build(DDIMScheduler, "squaredcos_cap_v2", "epsilon", "leading", exact=True)
    options = {"eta": eta, "use_clipped_model_output": rederive}
    sampler = DDIM(eta=eta, rederive_eps=rederive)
    assert worst(scheduler, sampler, path, Kind.EPS, "leading", FEW, torch.float64, **options) < 1e-8


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear", "scaled_linear"])
@pytest.mark.parametrize(("cls", "sampler"), [(DDPMScheduler, DDPM), (DDIMScheduler, DDIM)])
def test_every_schedule_prediction_and_clipping(cls, sampler, schedule, prediction, clip):
    scheduler, path = build(cls, schedule, prediction, "leading", exact=True, clip=clip)
    chosen = sampler(clip=1.0 if clip else None)
    assert worst(scheduler, chosen, path, KINDS[prediction], "leading", FEW, torch.float64) < 1e-7
