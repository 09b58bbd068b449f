"""One action chunk at batch 1, observation to physical actions, DDIM-16: ours against LeRobot's ``select_action``
with an empty queue.  Same weights, same noise; parity is checked before anything is timed.
"""

from __future__ import annotations

import numpy as np
import torch
from common import arguments, duel, finish
from pairs import SIZES, Pair, count, make_pair, parity


def their_chunk(pair: Pair) -> None:
    """What a LeRobot user runs when a new chunk is due: preprocess, ``select_action``, postprocess."""
    policy = pair.theirs.policy
    policy.reset()
    batch = {k: torch.from_numpy(v[:, -1]) for k, v in pair.obs.items()}
    with torch.inference_mode():
        pair.theirs.post(policy.select_action(pair.theirs.pre(batch)))


def latency(pair: Pair, calls: int) -> dict[str, float]:
    """p50, p95, p99 and maximum of our chunk, in milliseconds."""
    from time import perf_counter

    times = []
    for i in range(calls):
        start = perf_counter()
        pair.ours.act(pair.obs, noise_keys=[(0, i)])
        times.append((perf_counter() - start) * 1e3)
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "max_ms": float(max(times)),
        "calls": calls,
    }


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    for name in ("4M",) if args.quick else ("4M", "17M", "65M"):
        pair = make_pair(SIZES[name], steps=16)
        pair.theirs.policy.eval()
        difference = parity(pair)
        if difference > 1e-4:
            raise SystemExit(f"{name}: outputs differ by {difference:.1e} normalised units; timing would mean nothing")
        facts = {"parameters": count(pair.ours), "their_parameters": pair.theirs.parameters(), "parity": difference}
        rows.append(
            duel(
                f"chunk {name} DDIM-16 fp32, {args.threads} thread(s)",
                lambda pair=pair: pair.ours.act(pair.obs, noise_keys=[(0, 0)]),
                lambda pair=pair: their_chunk(pair),
                rounds=3 if args.quick else 9,
                repeats=2,
                goal=">= 2",
                **facts,
                **latency(pair, 20 if args.quick else 200 if name != "65M" else 60),
            )
        )
    finish(rows, args.out)


if __name__ == "__main__":
    main()
