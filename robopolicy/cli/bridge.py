"""Open a rosbridge-v2 gateway to a ROS graph: ROS 1 (rospy), ROS 2 (rclpy), or an empty graph in this process.

  robopolicy bridge --backend rospy                      ws://127.0.0.1:9090 to the graph of the ROS master
  robopolicy bridge --backend rclpy --port 9091          the same for ROS 2
  robopolicy bridge --backend rclpy --guarded            clients reach the guard's topics, not the controller's
  robopolicy bridge --quirks rosbridge1                  as lenient and as silent as rosbridge_suite, for tests

The simulated Franka opens its own gateway: see `robopolicy twin`.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``robopolicy bridge``."""
    parser.add_argument("--backend", choices=("bus", "rospy", "rclpy"), default="bus", help="what is behind it (bus)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=9090, help="port to bind; 0 takes a free one (9090)")
    parser.add_argument("--allow-remote", action="store_true", help="let other machines connect; needs --token-file")
    parser.add_argument("--token-file", type=Path, help="file with the token that clients must show (chmod 600)")
    parser.add_argument("--allow-origin", action="append", default=[], help="web page that may connect (repeatable)")
    parser.add_argument(
        "--guarded", action="store_true", help="a guard stands before the controller: keep its topic out"
    )
    parser.add_argument("--topics", nargs="+", metavar="PATTERN", help="topics that clients may touch (a Franka's)")
    parser.add_argument("--services", nargs="+", metavar="PATTERN", help="services they may call (a Franka's)")
    parser.add_argument("--quirks", choices=("none", "rosbridge1", "rosbridge2"), default="none", help="imitate")
    parser.add_argument("--max-message-size", type=int, default=0, help="split longer outgoing text into fragments")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from robopolicy.real_robot.wire.backends import make_backend
    from robopolicy.real_robot.wire.bus import Bus
    from robopolicy.real_robot.wire.gateway import Gateway
    from robopolicy.real_robot.wire.gateway_config import FRANKA_SERVICES, FRANKA_TOPICS, GUARDED_TOPICS, GatewayConfig
    from robopolicy.real_robot.wire.serve import serve

    # A bus in this process has nothing to protect; a robot's graph has.
    real = args.backend != "bus"
    open_topics = GUARDED_TOPICS if args.guarded else FRANKA_TOPICS if real else ("*",)
    config = GatewayConfig(
        host=args.host,
        port=args.port,
        allow_remote=args.allow_remote,
        token_file=args.token_file,
        allow_origins=tuple(args.allow_origin),
        quirks=args.quirks,
        allow_topics=tuple(args.topics or open_topics),
        allow_services=tuple(args.services or (FRANKA_SERVICES if real else ("*",))),
        max_message_size=args.max_message_size,
    )
    bus = Bus("ros2" if args.quirks == "rosbridge2" else "ros1")
    backend = make_backend(args.backend, bus)

    def told(gateway: Gateway) -> None:
        print(f"bridge: {args.backend} ({backend.flavour}) on {gateway.url}; Ctrl-C stops it", flush=True)

    serve(backend, config, told)
    return 0
