"""Run by test_replay_kill.py in a process of its own: forks writers of a replay and kills them in the middle.

Before it dies, a writer may lose the end of the file that it was writing (what half a write would have left).  Prints
one JSON object a trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from robopolicy.core import io
from robopolicy.rl.replay import Replay
from robopolicy.rl.transitions import EpisodeChunks
from robopolicy.testing.replays import make_episode, tiny_layout

LAYOUT = tiny_layout(cameras={"front": (16, 16)}, latent_shape=(4,))
EPISODES = 6


def episode(index: int) -> EpisodeChunks:
    return make_episode(LAYOUT, 20 + index, index, success=index % 2 == 0)


def write(root: Path) -> None:
    """Whatever of the episodes is missing."""
    replay = Replay.open(root, LAYOUT) if root.exists() else Replay.create(root, LAYOUT)
    for index in range(EPISODES):
        if (0, index) not in replay:
            replay.add(episode(index))


def die_at(root: Path, point: str, occurrence: int, torn: bool) -> None:
    left = occurrence

    def fault_point(name: str) -> None:
        nonlocal left
        left -= name == point
        if name == point and left == 0:
            path = root / name.removeprefix("replay_")
            if torn:
                os.truncate(path, path.stat().st_size - 3)
            os.kill(os.getpid(), signal.SIGKILL)

    io.fault_point = fault_point


def digest(root: Path) -> str:
    view = Replay.open(root, LAYOUT).upto(1)
    hashed = hashlib.sha256()
    for key, values in sorted(view.batch(np.arange(len(view))).items()):
        hashed.update(key.encode() + values.tobytes())
    return hashed.hexdigest()


def killed(root: Path, point: str | None, occurrence: int, torn: bool, delay: float) -> int:
    """Write in a child that dies; the signal it died of."""
    pid = os.fork()
    if pid == 0:
        try:
            if point is not None:
                die_at(root, point, occurrence, torn)
            write(root)
        finally:
            os._exit(0)
    if point is None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(folder: Path) -> None:
    os.fsync = lambda fd: None  # a killed process loses nothing that it wrote; only a power cut does
    begin = time.perf_counter()
    write(folder / "reference")
    whole = time.perf_counter() - begin
    reference = digest(folder / "reference")
    points = sorted(f"replay_{p.name}" for p in (folder / "reference").iterdir() if p.name != "layout.json")
    rng = random.Random(0)
    plan = [(p, rng.randint(1, EPISODES), torn, 0.0) for p in points for torn in (False, True)]
    plan += [(None, 0, False, rng.uniform(0, 1) * whole) for _ in range(8)]
    for i, (point, occurrence, torn, delay) in enumerate(plan):
        root = folder / f"run{i}"
        died_of = killed(root, point, occurrence, torn, delay)
        kept = len(Replay.open(root, LAYOUT).episodes) if (root / "layout.json").exists() else 0
        told = {"point": point, "torn": torn, "died_of": died_of, "expected": occurrence - 1, "kept": kept}
        if kept or (root / "layout.json").exists():
            write(root)
            told["equal"] = digest(root) == reference
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
