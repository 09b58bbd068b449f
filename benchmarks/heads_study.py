"""What docs/results/heads.md compares: trainings and evaluations as data (see ``heads.py``).

Parts: a = all heads, equal budget; b = few steps; c = observation horizon on a task that needs memory; d = a camera
that moves; e = goals in play data.  Equal budget is equal optimiser steps and batch size on the same demonstrations;
time is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STEPS = (1, 2, 3, 5, 10, 16, 50, 100)
HORIZONS = (2, 4, 8, 16)
YAWS = (0, 10, 20, 30)
HEADS = ("diffusion", "flow", "beso", "ebt", "seed_policy", "diffuser_actor_3d")
EPISODES = 100


@dataclass(frozen=True)
class Training:
    """``name`` is the run's folder; ``data`` the dataset's; ``options`` follow the preset on the command line."""

    name: str
    part: str
    preset: str
    data: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """One cell: ``options`` follow ``robopolicy evaluate RUN``; ``tags`` are what the page sorts by."""

    name: str
    part: str
    training: str
    options: tuple[str, ...] = ()
    tags: dict[str, object] = field(default_factory=dict)
    episodes: int = EPISODES


def _budget(steps: int, batch: int = 64) -> tuple[str, ...]:
    return "--steps", str(steps), "--batch_size", str(batch), "--checkpoint.every", "500"


def _trainings() -> list[Training]:
    found = []
    for head in HEADS:
        data = "panda_push_rgbd" if head == "diffuser_actor_3d" else "panda_push"
        # Batches of a policy with a memory count chains; an episode here is a chain of about ten windows.
        batch = 6 if head == "seed_policy" else 64
        found.append(Training(f"push_{head}", "a", f"configs/panda_push/{head}.yaml", data, _budget(3000, batch)))
    for n_obs in HORIZONS:
        for head in ("diffusion", "seed_policy"):
            layout = ("--policy.n_obs_steps", str(n_obs), "--policy.horizon", str(n_obs + 6))
            options = (*_budget(1500, 128 if head == "diffusion" else 8), *layout)
            preset = f"configs/panda_recall/{head}.yaml"
            found.append(Training(f"recall_{head}_{n_obs}", "c", preset, "panda_recall", options))
    found.append(Training("ogbench_beso", "e", "configs/ogbench_cube/beso.yaml", "ogbench_cube", _budget(1000, 64)))
    found.append(Training("push_rgb", "d", "configs/panda_push/diffusion_rgb.yaml", "panda_push_rgbd", _budget(3000)))
    return found


def _evaluations() -> list[Evaluation]:
    found = []
    for head in HEADS:
        option = "--sampler.max_steps" if head == "ebt" else "--sampler.num_inference_steps"
        for steps in STEPS:
            cell = (option, str(steps), *(("--sampler.sampler", "ddim") if head == "beso" else ()))
            tags: dict[str, object] = {"head": head, "steps": steps}
            found.append(Evaluation(f"{head}_{steps}", "a", f"push_{head}", cell, tags))
    for steps in (2, 10, 100):
        ddpm = (
            "--sampler.sampler",
            "ddpm",
            "--sampler.num_inference_steps",
            str(steps),
            "--sampler.spacing",
            "leading",
        )
        tags = {"head": "diffusion, DDPM", "steps": steps}
        found.append(Evaluation(f"ddpm_{steps}", "b", "push_diffusion", ddpm, tags))
    for n_obs in HORIZONS:
        for head in ("diffusion", "seed_policy"):
            tags = {"head": head, "n_obs_steps": n_obs}
            found.append(Evaluation(f"recall_{head}_{n_obs}", "c", f"recall_{head}_{n_obs}", (), tags))
    for guidance in (1.0,):
        goal = ("--sampler.guidance", str(guidance), "--sampler.num_inference_steps", "3")
        tags = {"head": "beso", "guidance": guidance}
        found.append(Evaluation(f"ogbench_{guidance:g}", "e", "ogbench_beso", goal, tags))
    for name in ("diffuser_actor_3d", "rgb"):
        for yaw in YAWS:
            tags = {"head": name, "yaw": yaw}
            cell = ("--env.camera_yaw", str(yaw))
            found.append(Evaluation(f"yaw_{name}_{yaw}", "d", f"push_{name}", cell, tags))
    return found


TRAININGS = _trainings()
EVALUATIONS = _evaluations()
