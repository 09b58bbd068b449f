"""One optimiser step (forward, backward, clip, Adam; ours with EMA on top) against LeRobot's, equal nets and batch.

Two columns: the same numerics (fp32), and ours in bf16 autocast, which is what our CPU presets use where the
processor has bf16 instructions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import arguments, duel, finish
from pairs import SIZES, Pair, count, make_pair, random_batch

from robopolicy.training.config import EMAConfig
from robopolicy.training.ema import EMA


def our_step(pair: Pair, batch: dict, bf16: bool) -> Callable[[], None]:
    """A step the way the training loop does it."""
    policy = pair.ours
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(policy.optim_groups(1e-4, 1e-6), lr=1e-4, betas=(0.95, 0.999), fused=True)
    ema = EMA(policy, EMAConfig())

    def step() -> None:
        policy.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = policy.loss(batch)[0].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    return step


def their_step(pair: Pair, batch: dict) -> Callable[[], None]:
    """The body of LeRobot's ``update_policy`` (which also reads the loss and the norm back every step)."""
    policy = pair.theirs.policy
    optimizer, _ = pair.theirs.optimizer(1000)
    parameters = [p for p in policy.parameters() if p.requires_grad]

    def step() -> None:
        policy.train()
        loss = pair.theirs.loss(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 10.0, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        loss.item(), norm.item()

    return step


def case(name: str, images: bool, rows: int, bf16: bool, quick: bool) -> dict:
    """One duel on random data of PushT's shape."""
    pair = make_pair(SIZES[name], 10, images=images, crop=84 if images else None, share_weights=False)
    batch = random_batch(pair.ours.observation_spec, rows, 16, 2)
    batch = {k: torch.from_numpy(v) for k, v in batch.items()}
    what = f"{'image 96 px' if images else 'state'} {name} batch {rows}, ours {'bf16' if bf16 else 'fp32'}"
    facts = {"parameters": count(pair.ours), "their_parameters": pair.theirs.parameters()}
    rounds = 2 if quick else 7
    return duel(what, our_step(pair, batch, bf16), their_step(pair, batch), rounds, 1, 1, goal=">= 1.1", **facts)


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cases = [("4M", False, 64), ("4M", False, 256), ("17M", False, 64), ("17M", True, 16)]
    rows = [
        case(n, images, b, bf16, args.quick)
        for n, images, b in (cases[:1] if args.quick else cases)
        for bf16 in (False, True)
    ]
    finish(rows, args.out)


if __name__ == "__main__":
    main()
