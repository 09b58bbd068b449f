"""From simulation to the arm's driver: does a policy keep its success rate through gateway, filter and twin, when late?

  python benchmarks/deploy.py run --policy flow=RUN --policy diffusion=RUN --out DIR [--part 0/2] [--cells async_200]
  python benchmarks/deploy.py gather DIR --out docs/results/deploy.json
  python benchmarks/deploy.py page docs/results/deploy.json --out docs/results/deploy.md
  python benchmarks/deploy.py film --policy flow=RUN --out docs/results/deploy.mp4

The policies are taught in the embedded simulation, on a slow arm:
  robopolicy collect panda_lift --env.speed 0.1 --env.gripper_speed 0.1 --episodes 200 --cameras --noise 0.7 --out DATA
  robopolicy train configs/panda_lift/flow.yaml --dataset.path DATA --policy.horizon 32 ...

Every cell runs the same seeds.  Finished episodes are kept, one line each, so ``run`` may be stopped and goes on.
"""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import functools
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robopolicy.core.io import write_atomic

FORMAT = 1
PLAIN = "plain"


@dataclass(frozen=True)
class Cell:
    """One way of executing: ``mode`` "plain" is the embedded simulation itself; ``latency`` s are injected."""

    name: str
    mode: str
    latency: float = 0.0
    steps: int = 8
    jacobian: str = "identity"
    cap: float = 10.0
    """Of real-time chunking, with as many solver steps: the last of them lands on what is held."""


CELLS = (
    Cell(PLAIN, PLAIN),
    Cell("driver", "receding"),
    Cell("sync_200", "sync", 0.2),
    Cell("receding_200", "receding", 0.2),
    Cell("async_200", "async", 0.2, 16),
    Cell("rtc_200", "rtc", 0.2, 10),
)


@dataclass(frozen=True)
class Settings:
    """The set-up of all cells."""

    task: str = "panda_lift"
    options: dict[str, Any] = field(default_factory=lambda: {"speed": 0.1, "gripper_speed": 0.1})
    controller: str = "serl"
    arm_latency: float = 0.25
    """Of the twin with this controller behind a ramp (``robopolicy robot calibrate``)."""
    follows: float = 0.11
    """Of the demonstrations (``measured_follow``)."""
    limits: dict[str, Any] = field(
        default_factory=lambda: {
            **{"speed": 0.20, "turn_speed": 0.6, "acceleration": 2.0, "turn_acceleration": 6.0},
            **{"lead": 0.10, "turn_lead": 0.4, "jump": 0.05, "turn_jump": 0.3},
            "workspace": {"low": [0.25, -0.40, 0.01], "high": [0.75, 0.40, 0.70]},
        }
    )
    """Twice the speed that was taught, and below every hard cap."""
    seconds: float = 21.0
    """An episode's time, that of the simulated task."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("run")
    sub.add_argument("--policy", action="append", required=True, metavar="NAME=PATH", help="may be repeated")
    sub.add_argument("--episodes", type=int, default=50)
    sub.add_argument("--base-seed", type=int, default=100_000)
    sub.add_argument("--cells", nargs="*", default=[c.name for c in CELLS], choices=[c.name for c in CELLS])
    sub.add_argument("--part", default="0/1", help="this share of the cells, e.g. 0/2")
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("gather")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("page")
    sub.add_argument("json", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("film")
    sub.add_argument("--policy", required=True, metavar="NAME=PATH")
    sub.add_argument("--cell", default="rtc_200", choices=[c.name for c in CELLS if c.name != PLAIN])
    sub.add_argument("--seed", type=int, default=100_000)
    sub.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.verb == "run":
        run(args)
    elif args.verb == "gather":
        from deploy_gather import gather

        gather(args.folder, args.out)
    elif args.verb == "film":
        film(args)
    else:
        from deploy_page import write_page

        write_page(args.json, args.out)


# -- running -----------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    """All cells of this part, episode by episode."""
    import torch

    torch.set_num_threads(1)
    settings = Settings()
    args.out.mkdir(parents=True, exist_ok=True)
    same = args.out / "settings.json"
    data = {"format": FORMAT, "settings": dataclasses.asdict(settings), "base_seed": args.base_seed}
    if same.is_file() and json.loads(same.read_text()) != json.loads(json.dumps(data)):
        raise SystemExit(f"{same}: other settings; choose another folder")
    write_atomic(same, json.dumps(data, indent=1))
    part, parts = map(int, args.part.split("/"))
    jobs = [(*p.split("=", 1), cell) for cell in CELLS if cell.name in args.cells for p in args.policy]
    for name, path, cell in jobs[part::parts]:
        target = args.out / f"{name}.{cell.name}.jsonl"
        done = [json.loads(line) for line in target.read_text().splitlines()] if target.is_file() else []
        seeds = range(args.base_seed + len(done), args.base_seed + args.episodes)
        if not seeds:
            continue
        policy = _policy(path, cell)
        episodes = _plain(policy, settings, seeds) if cell.mode == PLAIN else _driven(policy, settings, cell, seeds)
        with target.open("a") as lines:
            for episode in episodes:
                done.append(episode)
                lines.write(json.dumps(episode) + "\n")
                lines.flush()
                wins = sum(e["success"] for e in done)
                print(f"{name} {cell.name}: {wins}/{len(done)} {episode['why']} {episode['wall_s']:.0f} s", flush=True)


def _policy(path: str, cell: Cell) -> Any:
    from robopolicy.api import load

    policy = load(path)
    if cell.mode != "rtc":
        return policy
    from robopolicy.wrappers.execution.policy import RealTimePolicy

    return RealTimePolicy(policy, cap=cell.cap, jacobian=cell.jacobian)  # type: ignore[arg-type]


def _plain(policy: Any, settings: Settings, seeds: range) -> Any:
    """The embedded simulation by itself: ``n_action_steps`` of every chunk, no latency."""
    from robopolicy.sim.registry import make_env

    env = make_env(settings.task, cameras=(), **settings.options)
    for seed in seeds:
        began, steps, solved, over = time.monotonic(), 0, False, False
        env.reset(seed)
        history: list[dict[str, np.ndarray]] = []
        while not over:
            history = [*history[-1:], env.observe()] if history else [env.observe()] * 2
            obs = {k: np.stack([o[k] for o in history])[None] for k in policy.observation_spec.keys}
            for action in policy.act(obs, noise_keys=[(seed, steps)]).executable[0]:
                history = [*history[-1:], env.observe()]
                outcome = env.step(action)
                steps, solved, over = steps + 1, outcome.success, outcome.done
                if over:
                    break
        yield {
            **{"seed": seed, "success": bool(solved), "seconds": steps / env.fps, "why": "solved" * solved or "time"},
            "wall_s": time.monotonic() - began,
        }
    env.close()


def _driven(policy: Any, settings: Settings, cell: Cell, seeds: range) -> Any:
    """Gateway, driver, safety filter and twin in lock-step, with the latency injected in virtual time."""
    adapter = _adapter(policy, settings)
    for seed in seeds:
        with _world(settings) as world:  # a fresh one: then an episode is a function of its seed to the last bit
            yield _episode(world, policy, adapter, settings, cell, seed)


def _adapter(policy: Any, settings: Settings) -> Any:
    from robopolicy.real_robot.deploy.actions import ActionConfig
    from robopolicy.real_robot.deploy.adapters import make_adapter

    return make_adapter(policy.observation_spec, policy.action_spec, ActionConfig(snap=True), follows=settings.follows)


@functools.cache
def _limits_file(limits: str) -> str:
    """The limits as a file, which is how a driver is told them."""
    folder = tempfile.mkdtemp(prefix="deploy_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "limits.yaml"
    file.write_text(yaml.safe_dump(json.loads(limits)))
    return str(file)


def _world(settings: Settings, **robot_too: Any) -> Any:
    from robopolicy.real_robot.deploy.lockstep import LockStep
    from robopolicy.real_robot.driver.config import FrankaBridgeConfig

    robot = FrankaBridgeConfig(
        objects="/twin/objects",
        controller=settings.controller,
        arm_latency=settings.arm_latency,
        limits=_limits_file(json.dumps(settings.limits)),
        **robot_too,
    )
    return LockStep(settings.task, settings.options, robot, {"controller": settings.controller})


def _episode(
    world: Any, policy: Any, adapter: Any, settings: Settings, cell: Cell, seed: int, look: Any = None
) -> dict[str, Any]:
    from robopolicy.real_robot.deploy.chunk_record import ChunkRecorder
    from robopolicy.real_robot.deploy.lockstep import running
    from robopolicy.real_robot.deploy.runner import PolicyRunner, Slowness, hand_over
    from robopolicy.wrappers.execution import make_executor

    began, lead = time.monotonic(), hand_over(settings.arm_latency, settings.follows, world.robot.times.tick)
    executor = make_executor(cell.mode, policy.action_spec, latency=cell.latency, lead=lead, steps=cell.steps)
    with world.episode(seed) as episode:
        recorder = episode.driver.tap = ChunkRecorder()
        runner = PolicyRunner(
            episode.driver,
            policy,
            executor,
            adapter,
            slowness=Slowness(cell.latency),
            lead=lead,
            limits=episode.driver.limits,
            usual=cell.latency,
            seed=seed,
        )
        while episode.now < settings.seconds and not episode.succeeded and running(episode):
            runner.poll()
            episode.tick()
            if look is not None:
                look(episode)
        status, actions = episode.driver.status(), recorder.actions(settings.arm_latency)
        steps = recorder.references(round(policy.action_spec.dt / episode.driver.times.tick))
        held = not running(episode)
        return {
            **{"seed": seed, "success": episode.succeeded, "seconds": round(episode.now, 3)},
            "why": f"{status.state.value}: {status.why}" if held else ("solved" if episode.succeeded else "time"),
            "held": held,
            "runner": dict(runner.counters),
            "counters": {k: v for k, v in status.counters.items() if not k.startswith("wire")},
            "flags": dict(recorder.flags),
            "dropped": sum(merge.slow > 0 for _, merge, _ in recorder.chunks),
            "ticks": len(episode.records),
            "fastest": round(max(episode.speeds), 4),
            "inside_mm": (1e3 * steps.inside).round(2).tolist(),
            "borders_mm": (1e3 * steps.borders).round(2).tolist(),
            "actions_inside_mm": (1e3 * actions.inside).round(2).tolist(),
            "actions_borders_mm": (1e3 * actions.borders).round(2).tolist(),
            "wall_s": time.monotonic() - began,
        }


# -- pictures ---------------------------------------------------------------------------------------------------------


def film(args: argparse.Namespace) -> None:
    """One episode from the twin's front camera."""
    from deploy_page import write_film

    name, path = args.policy.split("=", 1)
    cell = next(c for c in CELLS if c.name == args.cell)
    write_film(lambda look: _filmed(path, cell, args.seed, look), args.out)
    print(f"{args.out}: {name}, {cell.name}, seed {args.seed}")


def _filmed(path: str, cell: Cell, seed: int, look: Any) -> dict[str, Any]:
    from robopolicy.real_robot.driver.config import CameraConfig

    settings, policy = Settings(), _policy(path, cell)
    adapter = _adapter(policy, settings)
    with _world(settings, cameras={"front": CameraConfig(size=(240, 320), fps=20)}) as world:
        return _episode(world, policy, adapter, settings, cell, seed, look)


if __name__ == "__main__":
    main()
