"""Hostile frames against gateway and client: crashes (none are allowed) and growth of memory.

  nice python benchmarks/fuzz_bridge.py --frames 100000 --out fuzz.json [--quick]

``--frames`` go to each of six parts: the gateway's protocol code (strict, and as either rosbridge), the client's, the
gateway through real connections, and a client of a hostile server.  Exit code 1 if anything crashed, if an honest
client was not served in the end, or if memory grew by more than 32 MiB in any part.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import common

from robopolicy.core.io import write_atomic
from robopolicy.testing import fuzz

MOST = 32 << 20  # bytes


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="frames for each part (default 100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the frames: a smoke test")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    n, seed = max(1, options.frames // 50) if options.quick else options.frames, options.seed
    parts = {
        "gateway": lambda: fuzz.gateway_core(n, "none", seed),
        "gateway as rosbridge 1": lambda: fuzz.gateway_core(n, "rosbridge1", seed),
        "gateway as rosbridge 2": lambda: fuzz.gateway_core(n, "rosbridge2", seed),
        "client": lambda: fuzz.client_core(n, seed),
        "gateway, sockets": lambda: fuzz.gateway_socket(n, "none", seed),
        "client, socket": lambda: fuzz.client_socket(n, seed),
    }
    rows, bad = {}, False
    for name, part in parts.items():
        result = part()
        honest = result.counted.get("served", result.counted.get("heard", 1))
        bad |= bool(result.crashes) or not honest or result.grown_peak > MOST
        rows[name] = asdict(result) | {"closed": dict(result.closed), "crashes": result.crashes[:20]}
        grown = f"memory {result.grown / 2**20:+.1f} MiB (peak {result.grown_peak / 2**20:+.1f})"
        told = f"crashes {len(result.crashes)}  closed {dict(result.closed)}"
        print(f"{name:<24} {result.frames:>7} frames {result.seconds:7.1f} s  {told}  {grown}", flush=True)
    if options.out is not None:
        write_atomic(options.out, json.dumps({"machine": common.machine(), "seed": seed, "parts": rows}, indent=1))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
