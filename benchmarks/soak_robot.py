"""Half an hour of driving the twin in lock-step, as fast as the machine: does memory stay flat, does anything give way?

  MUJOCO_GL=egl nice python benchmarks/soak_robot.py --minutes 30 --out soak.json [--quick]

Driver, client, gateway and twin in this process over a real socket, one control tick after the other in virtual time.
A policy's chunks drive the tool round a circle of 4 cm at 0.05 m/s, twenty-five a minute are merged into plans that
still run, the hand opens and closes every five seconds.  Exit code 1 if the process grew by more than 32 MiB after the
first minute, if a thread was left behind, or if the arm ever held.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import threading
import time
from pathlib import Path

import common
import numpy as np

from robopolicy.core.io import write_atomic
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.deploy.lockstep import Episode, LockStep
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.frames import Pose
from robopolicy.testing.fuzz import present

MOST = 32 << 20  # bytes
RADIUS, SPEED, DT, SIZE = 0.04, 0.05, 0.1, 32
EVERY = 240  # ticks between two chunks: each is replaced before it ends
LOOK = 1000  # ticks between two looks at the memory
POOL = "gateway-call"  # threads of a pool of fixed size, which starts them as calls happen to overlap


def circle(episode: Episode, centre: np.ndarray, quaternion: np.ndarray) -> Waypoints:
    """The next three seconds of the circle, and of the hand."""
    due = episode.driver.clock.now() + 0.3 + DT * np.arange(SIZE)
    angle = (due - episode.started) * SPEED / RADIUS
    # The radius grows from nothing, so that the first action is where the tool is.
    radius = RADIUS * np.minimum(1.0, np.maximum(0.0, due - episode.started - 0.3) / 4)
    offset = np.stack((radius * np.cos(angle), radius * np.sin(angle), np.zeros(SIZE)), axis=-1)
    width = np.where((due // 5).astype(int) % 2 == 0, 0.07, 0.03)
    track = Pose(centre + offset, np.tile(quaternion, (SIZE, 1)))
    return Waypoints(track, due, DT, episode.driver.status().epoch, width)


def soak(minutes: float) -> dict[str, object]:
    """Drive for so many minutes of the robot's time."""
    robot = FrankaBridgeConfig(gripper={"expect_object": False})  # type: ignore[arg-type]
    seconds: list[float] = []
    memory: list[int] = []
    threads: list[int] = []
    began, cpu = time.perf_counter(), time.process_time()
    with LockStep(robot=robot) as world, world.episode(seed=0) as episode:
        at = episode.driver.status().measured
        assert at is not None
        for k in range(round(minutes * 6000)):
            if k % EVERY == 0:
                episode.driver.submit(circle(episode, at.position, at.quaternion))
            episode.tick()
            if k % LOOK == 0:
                episode.records.clear()
                episode.speeds.clear()
                gc.collect()
                seconds.append(episode.now)
                memory.append(present())
                threads.append(sum(not t.name.startswith(POOL) for t in threading.enumerate()))
            if episode.driver.status().state is not State.RUNNING and k % LOOK == 1:
                break
        status = episode.driver.status()
    warm = next((i for i, s in enumerate(seconds) if s >= 60), 0)
    late = memory[warm:]
    slope = float(np.polyfit(seconds[warm:], late, 1)[0]) * 3600 if len(late) > 2 else float("nan")
    return {
        "virtual_seconds": episode.now,
        "wall_seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "state": status.state.value,
        "why": status.why,
        "start_mib": memory[0] / 2**20,
        "warm_mib": late[0] / 2**20,
        "end_mib": memory[-1] / 2**20,
        "grown": max(late) - late[0],
        "mib_an_hour": slope / 2**20,
        "threads": [threads[0], threads[-1]],
        "counters": dict(status.counters),
    }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the robot's time (default 30)")
    parser.add_argument("--quick", action="store_true", help="ten seconds: a smoke test")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    found = soak(1 / 6 if options.quick else options.minutes)
    took = f"{found['virtual_seconds']:.0f} s of the robot in {found['wall_seconds']:.0f} s"
    grew = f"{found['warm_mib']:.1f} MiB after a minute, {found['end_mib']:.1f} in the end"
    print(
        f"{took} ({found['cpu_seconds']:.0f} s of CPU); {found['state']} ({found['why']}); threads {found['threads']}"
    )
    print(f"memory {grew}, {found['mib_an_hour']:+.2f} MiB an hour")
    print(found["counters"])
    if options.out is not None:
        write_atomic(options.out, json.dumps({"machine": common.machine(), **found}, indent=1, default=float))
    threads = found["threads"]
    assert isinstance(threads, list)
    grown = found["grown"]
    assert isinstance(grown, int)
    return int(grown > MOST or threads[1] > threads[0] or found["state"] != State.RUNNING.value)


if __name__ == "__main__":
    sys.exit(main())
