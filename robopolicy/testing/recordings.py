"""Small deterministic recordings, and a recorder process that gets killed: what the crash tests are made of.

Episode ``i`` of a toy dataset is a pure function of ``i``, so a test knows what must be on disk without keeping it.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core import io
from robopolicy.core.errors import RobopolicyError
from robopolicy.core.specs import ActionSpace, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.datasets.writer import Writer

CAMERA = "observation.images.front"
FPS = 10
LOG = "closed.txt"


def toy_specs(camera: bool = True, height: int = 48, width: int = 64) -> tuple[ObservationSpec, ActionSpace]:
    """State of four named joints, an environment state, and one camera."""
    features = [
        FeatureSpec("observation.state", (4,), FeatureKind.STATE, names=("j0", "j1", "j2", "j3"), unit="rad"),
        FeatureSpec("observation.environment_state", (2,), FeatureKind.STATE, unit="m"),
    ]
    if camera:
        features.append(FeatureSpec(CAMERA, (3, height, width), FeatureKind.IMAGE))
    action = ActionSpace(3, names=("x", "y", "z"), mode="delta", low=(-1.0,) * 3, high=(1.0,) * 3, unit="m")
    return ObservationSpec(tuple(features)), action


def toy_length(index: int) -> int:
    """Frames of toy episode ``index``: 5..9."""
    return 5 + index * 7 % 5


def toy_task(index: int) -> str:
    """Task sentence of toy episode ``index``."""
    return f"put cube {index % 3} away"


def toy_frames(index: int, spec: ObservationSpec) -> Iterator[dict[str, Any]]:
    """Keyword arguments of ``Writer.add_frame`` for every frame of toy episode ``index``."""
    rng = np.random.default_rng([17, index])
    length = toy_length(index)
    for t in range(length):
        obs: dict[str, np.ndarray] = {
            "observation.state": rng.normal(size=4).astype(np.float32),
            "observation.environment_state": rng.normal(size=2).astype(np.float32),
        }
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        if CAMERA in spec:
            obs[CAMERA] = toy_image(index, t, *spec[CAMERA].shape[1:])
        last = t == length - 1
        yield {"obs": obs, "action": action, "task": toy_task(index), "reward": float(t), "success": last, "done": last}


def toy_image(index: int, t: int, height: int, width: int) -> np.ndarray:
    """A smooth image (3, H, W) uint8 whose level tells frame and episode apart, even after lossy encoding."""
    down, across = np.mgrid[0:height, 0:width]
    level = (t * 20 + index * 5) % 200
    planes = [np.full_like(down, level), down * 2 + 20, across * 2 + 20]
    return np.stack(planes).astype(np.uint8)


def record_toy(root: Path, episodes: int = 3, **kwargs: Any) -> Path:
    """Record toy episodes 0.. and finalize; ``kwargs`` go to ``toy_specs`` (camera, height, width) and ``Writer``."""
    sizes = {k: kwargs.pop(k) for k in ("camera", "height", "width") if k in kwargs}
    spec, action = toy_specs(**sizes)
    with Writer(root, FPS, spec, action, robot_type="toy", **kwargs) as writer:
        for index in range(episodes):
            record_episode(writer, index)
    return root


def record_episode(writer: Writer, index: int) -> None:
    """Record and save toy episode ``index`` with its metadata."""
    for frame in toy_frames(index, writer.observation_spec):
        writer.add_frame(**frame)
    writer.save_episode({"seed": 100 + index, "success": True})


def killed_recorders(root: Path, seeds: list[int]) -> None:
    """For each seed, record into ``root/seed`` in a forked child that dies by SIGKILL; twice, the second time resumed.

    Even seeds die at a random fault point inside ``save_episode``, odd ones at a random time.  Each child notes the
    episodes whose ``save_episode`` had returned in ``root/seed.log``.
    """
    for seed in seeds:
        for attempt in range(2):
            chance = random.Random(2 * seed + attempt)
            pid = os.fork()
            if pid == 0:
                hits = chance.randrange(1, 26) if seed % 2 == 0 else 0
                _record_until_killed(root / str(seed), root / f"{seed}.log", hits)
            if seed % 2:
                time.sleep(chance.uniform(0.02, 0.5))
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _record_until_killed(root: Path, log: Path, hits: int) -> None:
    """Record without end; die at the ``hits``-th fault point (0: wait to be killed)."""
    left = [hits]

    def fault(name: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    io.fault_point = fault
    os.fsync = lambda fd: None  # the kernel outlives a killed process: syncing would prove nothing and cost the most
    if (root / "meta" / "info.json").exists():
        writer = Writer.resume(root)
    else:
        spec, action = toy_specs()
        writer = Writer(root, FPS, spec, action, robot_type="toy")
    while True:
        index = writer.num_episodes
        record_episode(writer, index)
        with open(log, "a") as f:
            f.write(f"{index}\n")


def full_disk_recorders(root: Path, limits: list[int]) -> None:
    """For each limit in bytes, record into ``root/limit`` in a forked child that may not write larger files.

    The child notes its closed episodes in ``root/limit.log`` and the error that stopped it in ``root/limit.err``.
    """
    for limit in limits:
        pid = os.fork()
        if pid == 0:
            try:
                _record_until_full(root / str(limit), root / f"{limit}.log", limit)
            except RobopolicyError as e:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                (root / f"{limit}.err").write_text(str(e))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)


def _record_until_full(root: Path, log: Path, limit: int) -> None:
    spec, action = toy_specs()
    with Writer(root, FPS, spec, action, robot_type="toy") as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for index in range(200):
            record_episode(writer, index)
            with open(log, "a") as f:
                f.write(f"{index}\n")


if __name__ == "__main__":
    what, where, *numbers = sys.argv[1:]
    {"kill": killed_recorders, "full": full_disk_recorders}[what](Path(where), [int(n) for n in numbers])
