"""Our soft actor-critic against that of Stable-Baselines3: same task, same settings, same number of steps.

  python benchmarks/sac_parity.py run --out DIR             both sides, five seeds; runs that exist are not run again
  python benchmarks/sac_parity.py gather DIR --out docs/results/sac.json
  python benchmarks/sac_parity.py page docs/results/sac.json --out docs/results/sac.md

Gymnasium's Pendulum-v1: torque in [-2, 2], 200 steps an episode, reward between about -16 and 0 a step, no end but the
time limit, which both sides bootstrap through.  Every evaluation is 20 episodes from the same seeds, without noise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from robopolicy.core.io import write_atomic
from robopolicy.core.seeding import generator
from robopolicy.rl.sac import SACBatch, SACLearner
from robopolicy.rl.sac_config import SACConfig

TASK, BOUND = "Pendulum-v1", 2.0
SIDES = ("robopolicy", "stable-baselines3")
EVALUATION_SEED = 10_000
PACKAGES = ("robopolicy", "stable-baselines3", "gymnasium", "torch", "numpy")
Act = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What both sides are given."""

    steps: int = 5000
    every: int = 1000
    episodes: int = 20
    warmup: int = 100
    batch: int = 128
    hidden: tuple[int, ...] = (128, 128)
    lr: float = 1e-3
    gamma: float = 0.99
    polyak: float = 0.005


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("run")
    sub.add_argument("--seeds", type=int, nargs="*", default=range(5))
    sub.add_argument("--steps", type=int, default=Settings.steps)
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("gather")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("page")
    sub.add_argument("json", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.verb == "run":
        run(args.out, list(args.seeds), Settings(steps=args.steps))
    elif args.verb == "gather":
        gather(args.folder, args.out)
    else:
        from sac_page import write_page

        write_page(args.json, args.out)


def run(out: Path, seeds: list[int], settings: Settings) -> None:
    """Every run that has no file yet, the two sides in turns."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for side in SIDES:
            file = out / f"{side}_{seed}.json"
            if file.is_file():
                continue
            cpu = time.process_time()
            curve = (ours if side == SIDES[0] else theirs)(seed, settings)
            told = {"side": side, "seed": seed, "settings": asdict(settings), "returns": curve,
                    "cpu_s": round(time.process_time() - cpu, 1), "versions": versions()}  # fmt: skip
            write_atomic(file, json.dumps(told, indent=1))
            print(f"{file.stem}: {np.mean(curve[str(settings.steps)]):.1f}, {told['cpu_s']:.0f} CPU s", flush=True)


def versions() -> dict[str, str]:
    """Of the packages that matter."""
    from importlib.metadata import version

    return {name: version(name) for name in PACKAGES}


def returns(act: Act, episodes: int) -> list[float]:
    """Undiscounted returns of ``episodes`` episodes side by side; ``act`` maps ``(N, 3)`` to ``(N, 1)``."""
    worlds = [gym.make(TASK) for _ in range(episodes)]
    seen = np.stack([w.reset(seed=EVALUATION_SEED + i)[0] for i, w in enumerate(worlds)])
    totals, over = np.zeros(episodes), False
    while not over:
        told = [w.step(a) for w, a in zip(worlds, act(seen), strict=True)]
        seen = np.stack([t[0] for t in told])
        totals += [t[1] for t in told]
        over = told[0][3]  # all end together, at the time limit
    return [round(float(t), 3) for t in totals]


def ours(seed: int, s: Settings) -> dict[str, list[float]]:
    """Returns by environment step with our learner."""
    torch.manual_seed(seed)
    config = SACConfig(
        hidden=s.hidden, bound=BOUND, polyak=s.polyak, actor_lr=s.lr, critic_lr=s.lr, temperature_lr=s.lr
    )
    sac, noise, draw = SACLearner(config, 3, 1), torch.Generator().manual_seed(seed), generator("choice", seed)
    seen, after, action = (np.zeros((s.steps, n), np.float32) for n in (3, 3, 1))
    reward, discount = np.zeros(s.steps, np.float32), np.full(s.steps, s.gamma, np.float32)
    world, curve = gym.make(TASK), {}
    now, _ = world.reset(seed=seed)

    @torch.no_grad()
    def mode(obs: np.ndarray) -> np.ndarray:
        return sac.actor.mode(torch.from_numpy(obs))[:, 0].numpy()

    for t in range(s.steps):
        with torch.no_grad():
            asked, _ = sac.actor(torch.from_numpy(now)[None], torch.randn(1, 1, 1, generator=noise))
        chosen = draw.uniform(-BOUND, BOUND, 1).astype(np.float32) if t < s.warmup else asked[0, 0].numpy()
        following, reward[t], _, over, _ = world.step(chosen)
        seen[t], action[t], after[t] = now, chosen, following
        now = world.reset()[0] if over else following
        if t >= s.warmup:
            rows = draw.integers(0, t + 1, s.batch)
            columns = (torch.from_numpy(x[rows]) for x in (seen, after, action, reward, discount))
            sac.update(SACBatch(*columns), noise)
        if (t + 1) % s.every == 0:
            curve[str(t + 1)] = returns(mode, s.episodes)
    return curve


def theirs(seed: int, s: Settings) -> dict[str, list[float]]:
    """Returns by environment step with Stable-Baselines3."""
    from stable_baselines3 import SAC

    model = SAC(
        "MlpPolicy",
        gym.make(TASK),
        learning_rate=s.lr,
        buffer_size=s.steps,
        learning_starts=s.warmup,
        batch_size=s.batch,
        tau=s.polyak,
        gamma=s.gamma,
        policy_kwargs={"net_arch": list(s.hidden)},
        seed=seed,
        device="cpu",
    )
    curve = {}
    for t in range(s.every, s.steps + 1, s.every):
        model.learn(s.every, reset_num_timesteps=t == s.every)
        curve[str(t)] = returns(lambda obs: model.predict(obs, deterministic=True)[0], s.episodes)
    return curve


def gather(folder: Path, out: Path) -> None:
    """All runs in one file."""
    found = [json.loads(f.read_text()) for f in sorted(folder.glob("*_*.json"))]
    shared = {k: found[0][k] for k in ("settings", "versions")}
    if any({k: f[k] for k in shared} != shared for f in found):
        raise SystemExit(f"{folder}: runs with different settings or versions; choose another folder")
    runs = [{k: f[k] for k in f if k not in shared} for f in found]
    write_atomic(out, json.dumps({"format": 1, "task": TASK, **shared, "runs": runs}, indent=1))
    print(f"{out}: {len(runs)} runs")


if __name__ == "__main__":
    main()
