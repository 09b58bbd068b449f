"""PushT from 206 human demonstrations: our Diffusion Policy beside LeRobot's, equal parameters, steps and batch.

  python benchmarks/pusht_vs_lerobot.py peer --config configs/pusht_state/diffusion.yaml --dataset PATH --out DIR
  python benchmarks/pusht_vs_lerobot.py peer ... --out DIR --weights DIR/peer.safetensors --sampler DDIM  # again
  python benchmarks/pusht_vs_lerobot.py ours RUN --out DIR           any run directory of `robopolicy train`

``peer`` trains LeRobot's own DiffusionPolicy with its own optimiser and schedule classes on the very batches (rows
and order) that `robopolicy train` sees for that preset, with the preset's learning rate and warm-up, then rolls it
out with its own default sampler (DDPM, 100 steps) on the test starts.  CPU seconds of the whole training loop are
recorded on one thread; that is the clock of the comparison at equal time, because shared machines stretch wall time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from lerobot_peer import LeRobotPeer, PeerConfig
from safetensors.torch import load_file, save_file
from tqdm import trange

from robopolicy.core.io import write_atomic
from robopolicy.core.specs import ActionSpec
from robopolicy.evaluation.rollout import evaluate
from robopolicy.policies.setup import select_features
from robopolicy.sim.registry import EnvConfig
from robopolicy.training.batches import to_tensors
from robopolicy.training.config import TrainConfig
from robopolicy.training.config_load import load_config
from robopolicy.training.data import Demonstrations
from robopolicy.training.order import SampleOrder


def build_peer(config: TrainConfig, demos: Demonstrations, sampler: str, inference_steps: int | None) -> LeRobotPeer:
    """LeRobot's policy with the sizes of our preset."""
    p = config.policy
    observation_spec = select_features(demos.observation_spec, p.observation_keys)
    spec = ActionSpec(demos.reader.action_space(), p.horizon, p.n_obs_steps, p.n_action_steps, 1 / demos.reader.fps)
    peer = PeerConfig(
        down_dims=p.unet.down_dims,
        step_embed_dim=p.unet.step_embed_dim,
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        warmup_steps=config.optimizer.warmup_steps,
        sampler=sampler,
        num_inference_steps=inference_steps,
    )
    return LeRobotPeer(peer, observation_spec, spec, demos.stats(observation_spec))


def train_peer(config: TrainConfig, demos: Demonstrations, peer: LeRobotPeer) -> dict[str, float]:
    """The body of LeRobot's ``update_policy`` over our batches; returns seconds and the last losses."""
    windows = demos.windows(peer.observation_spec, peer.action_spec, demos.training)
    order = SampleOrder(len(windows), config.batch_size, config.seed)
    optimizer, schedule = peer.optimizer(config.steps)
    parameters = [p for p in peer.policy.parameters() if p.requires_grad]
    losses: list[float] = []
    cpu, wall = time.process_time(), time.perf_counter()
    peer.policy.train()
    for step in trange(config.steps, mininterval=10):
        batch = to_tensors(windows.gather(order.indices(step)))
        loss = peer.loss({k: v for k, v in batch.items() if k.startswith(("observation", "action"))})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "loss_last_500": float(np.mean(losses[-500:])),
    }


def peer_main(args: argparse.Namespace) -> None:
    """Train, save and roll out the peer."""
    overrides = {"dataset.path": str(args.dataset)} | ({"steps": str(args.steps)} if args.steps else {})
    config = load_config(str(args.config), overrides)
    torch.manual_seed(config.seed)
    demos = Demonstrations.open(config.dataset)
    peer = build_peer(config, demos, args.sampler, args.inference_steps)
    if args.weights is not None:
        peer.policy.load_state_dict(load_file(args.weights))
    else:
        facts = {"steps": config.steps, "batch_size": config.batch_size, "parameters": peer.parameters()}
        print(facts, flush=True)
        facts |= train_peer(config, demos, peer)
        args.out.mkdir(parents=True, exist_ok=True)
        save_file(peer.policy.state_dict(), args.out / "peer.safetensors")
        write_atomic(args.out / "peer.json", json.dumps(facts, indent=1))
    roll_out(peer, args)


def roll_out(policy: object, args: argparse.Namespace) -> None:
    """The test starts: seeds 100000 up, as published."""
    stem = args.out / f"{args.sampler or 'as-saved'}_n{args.episodes}"
    # Many slots: one large batch is cheaper than four small ones, for both sides.
    record = evaluate(policy, EnvConfig("pusht"), args.episodes, 100_000, workers=1, slots=64, out=stem)
    print(record.summary())


def ours_main(args: argparse.Namespace) -> None:
    """Roll out one of our runs, optionally with another sampler."""
    import robopolicy

    policy = robopolicy.load(args.run)
    if args.sampler:
        policy.set_sampler(sampler=args.sampler.lower(), num_inference_steps=args.inference_steps or 100)
    roll_out(policy, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    peer = verbs.add_parser("peer", help="train and evaluate LeRobot's policy")
    peer.add_argument("--config", type=Path, default=Path("configs/pusht_state/diffusion.yaml"))
    peer.add_argument("--dataset", type=Path, required=True)
    peer.add_argument("--steps", type=int)
    peer.add_argument("--weights", type=Path, help="trained weights: skip training")
    peer.set_defaults(call=peer_main, sampler="DDPM")
    ours = verbs.add_parser("ours", help="roll out one of our runs")
    ours.add_argument("run", type=Path)
    ours.set_defaults(call=ours_main, sampler=None)
    for verb in (peer, ours):
        verb.add_argument("--out", type=Path, required=True)
        verb.add_argument("--episodes", type=int, default=200)
        verb.add_argument("--sampler", choices=["DDPM", "DDIM"])
        verb.add_argument("--inference-steps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.call(args)


if __name__ == "__main__":
    main()
