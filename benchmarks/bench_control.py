"""How late control ticks come while a small diffusion network samples: in its process, in one of their own, first.

  OMP_NUM_THREADS= python benchmarks/bench_control.py --out control.json --markdown control.md [--quick]

Four ways in turn, round after round, so that whatever else the machine does meets all of them: a thread of the torch
process with torch's own number of threads, the same with torch on all cores but one, a control process of its own, and
that process with SCHED_RR 20 where the system allows it.  A robot's side that only publishes (states at 100 Hz, no
physics) and the gateway are one process more.  The driver watches (``monitor_only``): it receives, dates and judges
every state, and ticks at 100 Hz.  Lateness: from a tick's deadline to its begin, of the last thousand ticks of a round.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from common import arguments, machine

from robopolicy.core.io import write_atomic
from robopolicy.nets.unet1d import ConditionalUnet1d
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.local import LocalDriver
from robopolicy.real_robot.driver.remote import FrankaBridgeRobot
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.twin import Twin
from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.gateway import running_gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.messages import header

STEPS, RATE = 16, 100.0
Figures = dict[str, float]
WAYS = ("thread", "thread, torch on fewer cores", "process", "process, SCHED_RR 20")


def robot_side(pipe: Connection) -> None:
    """A robot that stands still and says so a hundred times a second, behind a gateway."""
    twin = Twin(TwinConfig(cameras=(), lock_step=True))
    bus = Bus("ros1")
    twin.bind(bus)
    twin.step(200)
    names = twin.config.interface()
    said = [(topic, bus.last(topic), bus.publishers(topic)[0]) for topic in (names.state, names.gripper_states)]
    with running_gateway(BusBackend(bus), GatewayConfig(port=0)) as gateway:
        pipe.send(gateway.url)
        start, i = time.monotonic(), 0
        while not pipe.poll():
            for topic, message, owner in said:
                bus.publish(topic, {**message, "header": header(time.time(), "", "ros1", i)}, owner=owner)
            i += 1
            time.sleep(max(0.0, start + i / RATE - time.monotonic()))


def sampler() -> Callable[[], None]:
    """One chunk: sixteen evaluations of a 4 M U-Net."""
    net = ConditionalUnet1d(10, 64, (64, 128, 256)).eval()
    noise, condition = torch.randn(1, 16, 10), torch.randn(1, 64)

    def sample() -> None:
        with torch.inference_mode():
            x = noise
            for t in range(STEPS):
                x = x - 0.1 * net(x, torch.tensor([float(t)]), condition)

    return sample


def busy(sample: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Sample for so long: chunks a second, median milliseconds of one."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        sample()
        times.append(time.monotonic() - began)
    return len(times) / seconds, 1e3 * statistics.median(times)


def measure(way: str, url: str, sample: Callable[[], None], seconds: float) -> Figures:
    """One round of one way."""
    cores = os.cpu_count() or 2
    torch.set_num_threads(max(1, cores - 1) if way != "thread" else cores)
    config = FrankaBridgeConfig(url=url)
    if way.startswith("thread"):
        with LocalDriver(config) as driver:
            driver.connect(timeout=30)
            driver.run_thread()
            rate, median = busy(sample, seconds)
            found = driver.lateness.summary()
    else:
        with FrankaBridgeRobot(config, realtime="RR" in way) as robot:
            robot.connect()
            rate, median = busy(sample, seconds)
            found = dict(robot.status().extra["lateness"])
            if "RR" in way and robot.status().extra["warnings"]:
                return {}
    return found | {"chunks": rate, "chunk_ms": median, "load": os.getloadavg()[0]}


def markdown(rounds: list[dict[str, Figures]], facts: dict[str, object]) -> str:
    """The table, medians over rounds; the maximum is that of all rounds."""
    lines = [
        "| control loop | p50 ms | p99 ms | max ms | later than 5 ms | ticks | chunks a second |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        rows = [r[way] for r in rounds if r[way]]
        if not rows:
            lines.append(f"| {way} | not allowed on this machine | | | | | |")
            continue
        mid = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        worst = max(row["max"] for row in rows)
        lines.append(
            f"| {way} | {1e3 * mid['p50']:.2f} | {1e3 * mid['p99']:.2f} | {1e3 * worst:.1f} | {mid['over_5ms']:.1%} "
            f"| {sum(int(row['n']) for row in rows)} | {mid['chunks']:.1f} |"
        )
    loads = [row["load"] for r in rounds for row in r.values() if row]
    lines.append(
        f"\n{len(rounds)} round(s); {facts['cores']} cores, torch {torch.__version__}, "
        f"load average {min(loads):.1f} to {max(loads):.1f} (this program's own included)."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each way in a round")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    args = parser.parse_args()
    rounds, seconds = (1, 5.0) if args.quick else (args.rounds, args.seconds)
    facts = machine()
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    robot = context.Process(target=robot_side, args=(theirs,), daemon=True)
    robot.start()
    url, sample = pipe.recv(), sampler()
    sample()
    found = []
    for _ in range(rounds):
        found.append({way: measure(way, url, sample, seconds) for way in WAYS})
        print(json.dumps(found[-1]), flush=True)
    pipe.send("end")
    robot.join(10)
    table = markdown(found, facts)
    print(table)
    if args.markdown is not None:
        write_atomic(args.markdown, table)
    if args.out is not None:
        write_atomic(args.out, json.dumps({"machine": facts, "rounds": found}, indent=1))


if __name__ == "__main__":
    main()
