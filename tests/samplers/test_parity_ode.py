"""DPM-Solver++ 2M, Heun, Euler and Euler ancestral against diffusers: 20 seeds, every step count 1..100.

Their grids are used (``times = scheduler.timesteps``).  Theirs get the exact noise table (their float32 product is
off by 3e-5 at the noisy end of the cosine schedule), and the cosine schedule is entered below its last level, where
a float32 state divided by alpha = 5e-4 has lost four digits before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor

from robopolicy.core.policy import Prediction
from robopolicy.paths import VE, Kind, LinearFlow, VPDiscrete, canonical
from robopolicy.paths.edm import edm_denoise, edm_scalings
from robopolicy.samplers.ancestral import Ancestral
from robopolicy.samplers.dpmpp_2m import DPMpp2M
from robopolicy.samplers.euler import Euler
from robopolicy.samplers.heun import Heun

# diffusers 0.35 converts tensors for NumPy in a way that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

# schedule, spacing, step counts
CASES = [("squaredcos_cap_v2", "leading", range(1, 100)), ("linear", "trailing", range(1, 101))]


def latents() -> Tensor:
    """One row a seed."""
    return torch.stack([torch.randn(4, 2, generator=torch.Generator().manual_seed(s)) for s in range(20)])


def net(z: Tensor, t: Tensor) -> Tensor:
    """A smooth stand-in for a trained network."""
    return torch.tanh(1.3 * z + 0.3) * (0.9 - 0.002 * float(t))


def build(cls, schedule: str, spacing: str, prediction: str = "v_prediction", **options):
    common = {"beta_start": 1e-4, "beta_end": 2e-2, "beta_schedule": schedule, "timestep_spacing": spacing}
    scheduler = cls(100, prediction_type=prediction, **common, **options)
    path = VPDiscrete.make(schedule, 100, 1e-4, 2e-2)
    scheduler.alphas_cumprod = path.alpha_bar.clone()
    return scheduler, path


def grids(scheduler, counts) -> Iterator[Tensor]:
    """Their integer times for each step count, where they are a grid.

    For a few counts "trailing" gains an entry t = -1 by rounding; those are no sampling times.
    """
    for n in counts:
        scheduler.set_timesteps(n)
        times = scheduler.timesteps.long()
        if isinstance(scheduler, HeunDiscreteScheduler):
            times = torch.cat([times[:1], times[1::2]])
        if times[-1] >= 0:
            yield times
        else:
            assert len(times) == n + 1


def theirs(scheduler, z: Tensor, alpha: float) -> Tensor:
    """Their loop in EDM coordinates: the state is divided by alpha before, and rescaled for each query."""
    y = z / alpha
    generator = torch.Generator().manual_seed(5)
    extra = {"generator": generator} if isinstance(scheduler, EulerAncestralDiscreteScheduler) else {}
    for t in scheduler.timesteps:
        out = net(scheduler.scale_model_input(y, t), t)
        y = scheduler.step(out, t, y, **extra).prev_sample
    return y


def ours(sampler, path: VPDiscrete, kind: Kind, times: Tensor, z: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    noises = [torch.randn(z.shape, generator=generator, dtype=z.dtype) for _ in range(sampler.tape_len(len(times)))]
    tape = torch.stack(noises, 1) if noises else None
    return sampler(lambda z, t: canonical(kind, net(z, t), z, path, t), path, times, z, tape)


def worst_gap(sampler, scheduler, path, kind, counts, z: Tensor, scaled: bool) -> float:
    gaps = []
    for times in grids(scheduler, counts):
        alpha = path.levels([times[0].item()])[0][0] if scaled else 1.0
        got = ours(sampler, path, kind, times, z)
        gaps.append((got - theirs(scheduler, z, alpha)).abs().max().item())
    assert len(gaps) >= 0.9 * len(counts)
    return max(gaps)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize(("prediction", "kind"), [("sample", Kind.X0), ("v_prediction", Kind.V)])
def test_dpm_solver_pp_2m(schedule, prediction, kind):
    scheduler, path = build(DPMSolverMultistepScheduler, schedule, "trailing", prediction)
    counts = range(1, 101) if kind is Kind.X0 else (1, 2, 3, 10, 50)
    assert worst_gap(DPMpp2M(clip=None), scheduler, path, kind, counts, latents(), scaled=False) < 1e-5


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("schedule", "spacing", "counts"), CASES)
def test_heun(schedule, spacing, counts, clip):
    scheduler, path = build(HeunDiscreteScheduler, schedule, spacing, clip_sample=clip)
    sampler = Heun(clip=1.0 if clip else None)
    counts = counts if clip else (1, 2, 3, 10, 50)
    assert worst_gap(sampler, scheduler, path, Kind.V, counts, latents().double(), scaled=True) < 1e-5


@pytest.mark.parametrize(("schedule", "spacing", "counts"), CASES)
@pytest.mark.parametrize(
    ("cls", "sampler"),
    [(EulerDiscreteScheduler, Euler(clip=None)), (EulerAncestralDiscreteScheduler, Ancestral(clip=None))],
)
def test_euler_and_ancestral(schedule, spacing, counts, cls, sampler):
    scheduler, path = build(cls, schedule, spacing)
    assert worst_gap(sampler, scheduler, path, Kind.V, counts, latents(), scaled=True) < 1e-5


@pytest.mark.parametrize(
    ("cls", "sampler"), [(EDMEulerScheduler, Euler(clip=None)), (EDMDPMSolverMultistepScheduler, DPMpp2M(clip=None))]
)
def test_edm_schedulers_on_the_ve_path(cls, sampler):
    scheduler, path = cls(sigma_min=0.002, sigma_max=80.0, rho=7.0, sigma_data=0.5), VE(0.002, 80.0, 7.0)

    def denoise(y: Tensor, sigma: Tensor) -> Prediction:
        c = edm_scalings(sigma)
        return canonical(Kind.X0, edm_denoise(net(c.into * y, sigma.log() / 4), y, c), y, path, sigma)

    for n in (2, 3, 10, 18, 50):
        scheduler.set_timesteps(n)
        y = z = 80 * latents()
        for t in scheduler.timesteps:
            y = scheduler.step(net(scheduler.scale_model_input(y, t), t), t, y).prev_sample
        got = sampler(denoise, path, path.grid(n, "karras"), z)
        assert (got - y).abs().max().item() < 3e-5, n  # their state near 80 is rounded to 4e-6 at every step


@pytest.mark.parametrize(
    ("cls", "sampler"),
    [
        (FlowMatchEulerDiscreteScheduler, Euler(clip=None)),
        (FlowMatchHeunDiscreteScheduler, Heun(clip=None, space="native")),
    ],
)
def test_flow_matching_schedulers_on_the_linear_path(cls, sampler):
    scheduler, path = cls(), LinearFlow(noise_at=1)
    for n in (2, 3, 10, 40):
        scheduler.sigma_min = 1 / n
        scheduler.set_timesteps(n)
        z = x = latents()
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t / 1000), t, x).prev_sample
        times = torch.unique(scheduler.timesteps / 1000).flip(0)
        got = ours(sampler, path, Kind.VELOCITY, times, z)
        assert (got - x).abs().max().item() < 1e-5, n
