"""Sampling loops with an identity network, batch 1, (1, 16, 7): ours against the diffusers schedulers.

Both sides get the same network output (the state itself, read as epsilon) and convert it themselves, so the figure is
the whole cost around the network: preparing the grid (each chunk calls ``set_timesteps``, as LeRobot does; ours finds
its plan in a cache), conversion, clipping, update, fresh noise.  Results must agree before anything is timed.
``us_per_step`` divides by the number of network queries.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import arguments, duel, finish
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor

from robopolicy.core.policy import Prediction
from robopolicy.paths import Kind, VPDiscrete, canonical
from robopolicy.samplers import make_sampler

SHAPE = (1, 16, 7)


@dataclass(frozen=True)
class Case:
    """One sampler on both sides; ``scaled`` schedulers keep their state divided by alpha."""

    name: str
    steps: int
    scheduler: type
    clip: bool = False
    scaled: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {self.steps} steps, loop only"


CASES = (
    Case("ddpm", 100, DDPMScheduler, clip=True),
    Case("ddim", 10, DDIMScheduler, clip=True),
    Case("dpmpp_2m", 10, DPMSolverMultistepScheduler),
    Case("heun", 10, HeunDiscreteScheduler, clip=True, scaled=True),
    Case("euler", 10, EulerDiscreteScheduler, scaled=True),
    Case("ancestral", 10, EulerAncestralDiscreteScheduler, scaled=True),
)


def their_loop(case: Case, z: Tensor) -> tuple[Callable[[], Tensor], Tensor, float]:
    """Their sampling function, the times it visits, and alpha at the first of them."""
    # scaled_linear stays away from pure noise, where the float32 state of the scaled schedulers loses its digits
    common = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", "timestep_spacing": "trailing"}
    clip = {"clip_sample": True} if case.clip else {}
    scheduler: Any = case.scheduler(100, beta_start=1e-4, beta_end=2e-2, **common, **clip)
    scheduler.set_timesteps(case.steps)
    times = scheduler.timesteps.long()
    if case.name == "heun":
        times = torch.cat([times[:1], times[1::2]])
    alpha = scheduler.alphas_cumprod[times[0]].sqrt().item() if case.scaled else 1.0

    def loop() -> Tensor:
        scheduler.set_timesteps(case.steps)
        y = z / alpha
        for t in scheduler.timesteps:
            y = scheduler.step(scheduler.scale_model_input(y, t), t, y).prev_sample
        return y

    return loop, times, alpha


def our_loop(case: Case, z: Tensor, times: Tensor) -> Callable[[], Tensor]:
    """Our sampling function on the same grid."""
    path = VPDiscrete.make("scaled_linear", 100, 1e-4, 2e-2)
    sampler = make_sampler(case.name, clip=1.0 if case.clip else None)

    def denoise(z: Tensor, t: Tensor) -> Prediction:
        return canonical(Kind.EPS, z, z, path, t)

    return lambda: sampler(denoise, path, times, z)


def main() -> None:
    args = arguments(__doc__).parse_args()
    warnings.filterwarnings("ignore", message="__array__ implementation")
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    rows = []
    for case in CASES:
        theirs, times, _ = their_loop(case, z)
        ours = our_loop(case, z, times)
        difference = parity(case, ours, theirs)
        queries = 2 * case.steps - 1 if case.name == "heun" else case.steps
        row = duel(
            case.label,
            ours,
            theirs,
            rounds=3 if args.quick else 15,
            repeats=max(1, (20 if args.quick else 300) // queries),
            warmup=10,
            goal=">= 4",
            parity=difference,
        )
        row["ours_us_per_step"] = row["ours_ms"] * 1e3 / queries
        row["theirs_us_per_step"] = row["theirs_ms"] * 1e3 / queries
        rows.append(row)
    finish(rows, args.out)
    for row in rows:
        print(
            f"{row['name']:<46} {row['ours_us_per_step']:7.1f} us against {row['theirs_us_per_step']:7.1f} us a query"
        )


def parity(case: Case, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> float:
    """Largest difference of the results; stochastic loops draw the same numbers from the default generator."""
    torch.manual_seed(0)
    a = ours()
    torch.manual_seed(0)
    difference = (a - theirs()).abs().max().item()
    if difference > 2e-4:  # their float32 noise table near the clean end accounts for up to 1e-4 (tests/samplers)
        raise SystemExit(f"{case.label}: results differ by {difference:.1e}; timing would mean nothing")
    return difference


if __name__ == "__main__":
    main()
