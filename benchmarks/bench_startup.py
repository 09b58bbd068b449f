"""Start-up: ``import`` and ``--help`` of the training command, ours against LeRobot's, alternating processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common import arguments, duel, finish

BIN = Path(sys.executable).parent


def call(*command: str) -> None:
    """Run a command quietly; fails loudly if the command does."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)


def main() -> None:
    args = arguments(__doc__).parse_args()
    rounds = 2 if args.quick else 7
    rows = [
        duel(
            "train --help",
            lambda: call(str(BIN / "robopolicy"), "train", "--help"),
            lambda: call(str(BIN / "lerobot-train"), "--help"),
            rounds=rounds,
            repeats=1,
            warmup=1,
            goal=">= 10",
        ),
        duel(
            "import",
            lambda: call(sys.executable, "-c", "import robopolicy"),
            lambda: call(sys.executable, "-c", "import lerobot"),
            rounds=rounds,
            repeats=1,
            warmup=1,
        ),
    ]
    finish(rows, args.out)


if __name__ == "__main__":
    main()
