"""The bridge on loopback: echo latency of commands, age of images, throughput; medians, and ratios between settings.

  python benchmarks/bench_bridge.py --out bridge.json [--quick]

The gateway stands on an in-process bus in this process; client and gateway have a thread each.  Figures are this
machine's; nothing is asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.client_config import ClientConfig
from robopolicy.real_robot.wire.gateway import running_gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.messages import header, zeros

POSE, IMAGE, TARGET = "geometry_msgs/PoseStamped", "sensor_msgs/CompressedImage", "/target_pose"
IMAGE_BYTES = 106_000  # a 640x480 JPEG of quality 90


def summary(values: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds, and how many there were."""
    ordered = sorted(v * 1e3 for v in values)
    return {
        "median_ms": round(statistics.median(ordered), 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
        "n": len(ordered),
    }


@contextlib.contextmanager
def linked(bus: Bus) -> Iterator[RosbridgeClient]:
    """A client of a gateway on ``bus``."""
    with (
        running_gateway(BusBackend(bus), GatewayConfig(port=0)) as gateway,
        RosbridgeClient(ClientConfig(url=gateway.url, ping_timeout=5)) as client,
    ):
        yield client


def echo(rate: float, seconds: float) -> dict[str, float]:
    """Our commands heard back through the gateway at ``rate`` Hz."""
    with linked(Bus()) as client:
        client.advertise(TARGET, POSE)
        delays: list[float] = []
        sent: dict[float, float] = {}
        client.subscribe(
            TARGET,
            POSE,
            ordered=False,
            on_sample=lambda s: delays.append(s.arrival - sent[s.message["pose"]["position"]["x"]]),
        )
        time.sleep(0.2)
        message, start = zeros(POSE, "ros1"), time.monotonic()
        for i in range(int(rate * seconds)):
            message["header"] = header(time.time(), "panda_link0", "ros1")
            message["pose"]["position"]["x"] = float(i)
            sent[float(i)] = time.monotonic()
            client.publish(TARGET, message, drop=True)
            time.sleep(max(0.0, start + (i + 1) / rate - time.monotonic()))
        time.sleep(0.2)
    return summary(delays) | {"sent": int(rate * seconds)}


def images(rate: float, seconds: float, binary: bool) -> dict[str, float]:
    """Age of images on arrival, and how many of those offered arrived."""
    bus = Bus()
    bus.advertise("/cam", IMAGE)
    with linked(bus) as client:
        ages: list[float] = []
        client.subscribe("/cam", IMAGE, binary=binary, on_sample=lambda s: ages.append(time.time() - (s.stamp or 0)))
        while not bus.subscribers("/cam"):
            time.sleep(0.01)
        data, start = os.urandom(IMAGE_BYTES), time.monotonic()
        for i in range(int(rate * seconds)):
            bus.publish("/cam", {"header": header(time.time(), "cam", "ros1"), "format": "jpeg", "data": data})
            time.sleep(max(0.0, start + (i + 1) / rate - time.monotonic()))
        time.sleep(0.2)
    return summary(ages) | {"offered": int(rate * seconds), "share": round(len(ages) / int(rate * seconds), 3)}


def main() -> None:
    """Run all of them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="a smoke test, not a measurement")
    args = parser.parse_args()
    seconds = 1.0 if args.quick else 10.0
    figures = {
        "echo at 100 Hz": echo(100, seconds),
        "images at 30 Hz, CBOR": images(30, seconds, True),
        "images at 30 Hz, JSON": images(30, seconds, False),
        "images at 120 Hz, CBOR": images(120, seconds, True),
        "images at 120 Hz, JSON": images(120, seconds, False),
    }
    for name, figure in figures.items():
        print(f"{name:<26}", "  ".join(f"{k} {v}" for k, v in figure.items()))
    ratio = figures["images at 30 Hz, JSON"]["median_ms"] / figures["images at 30 Hz, CBOR"]["median_ms"]
    print(f"median age of an image, JSON over CBOR: {ratio:.2f}")
    if args.out:
        from robopolicy.core.io import write_atomic

        write_atomic(
            args.out, json.dumps({"figures": figures, "json_over_cbor": ratio, "cores": os.cpu_count()}, indent=1)
        )


if __name__ == "__main__":
    main()
