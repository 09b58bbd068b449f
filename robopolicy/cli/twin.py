"""A simulated Franka behind the rosbridge protocol: same topics, same controller, same faults as the arm.

  robopolicy twin                                   an empty table on ws://127.0.0.1:9090, in real time
  robopolicy twin --task panda_lift --port 9091     with the scene of an embedded task
  robopolicy twin --guard                           with a robot-side guard before the controller
  robopolicy twin --lock-step --ros ros2            time stands still until /twin/step is called; ROS 2 names

and, for a twin that runs:

  robopolicy twin status                            where it is, its mode, errors, faults, whether the task is solved
  robopolicy twin fault user_stop --for 2           a fault, for two seconds; `robopolicy twin fault` lists them all
  robopolicy twin fault --drop-link 3               cut the connections, for three seconds
  robopolicy twin clear [NAME]                      end faults
  robopolicy twin recover | reset [SEED]            clear errors; another scene
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import ConfigError, RobopolicyError

if TYPE_CHECKING:
    from robopolicy.real_robot.twin.config import TwinConfig
    from robopolicy.real_robot.twin.runner import TwinRunner

ACTIONS = ("serve", "status", "fault", "clear", "recover", "reset")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``robopolicy twin``."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="serve", metavar="|".join(ACTIONS))
    parser.add_argument("name", nargs="?", help="fault, or seed of a reset")
    parser.add_argument("value", nargs="?", help="number or word that the fault takes")
    parser.add_argument("--for", type=float, dest="seconds", metavar="S", help="end the fault after S seconds")
    parser.add_argument("--drop-link", type=float, metavar="S", help="short for: fault drop_link --for S")
    parser.add_argument("--url", default="ws://127.0.0.1:9090", help="the running twin (ws://127.0.0.1:9090)")
    parser.add_argument("--task", help="embedded task whose scene is loaded: panda_lift, panda_push... (empty table)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene (0)")
    parser.add_argument("--controller", choices=("franka_ros", "franka_ros_stiff", "serl"), default="franka_ros")
    parser.add_argument("--ros", choices=("ros1", "ros2"), default="ros1", help="names and types of ROS 1 or 2 (ros1)")
    parser.add_argument("--state-rate", type=float, default=100.0, metavar="HZ", help="state messages a second (100)")
    parser.add_argument("--cameras", nargs="*", default=["front", "wrist"], help="cameras to publish (front wrist)")
    parser.add_argument("--camera-rate", type=float, default=10.0, metavar="HZ", help="pictures a second of each (10)")
    parser.add_argument("--image-size", type=int, nargs=2, default=[240, 320], metavar=("H", "W"), help="(240 320)")
    parser.add_argument("--lock-step", action="store_true", help="time stands still until /twin/step is called")
    parser.add_argument("--backend", choices=("rospy", "rclpy"), help="be a node of that ROS graph, without a gateway")
    parser.add_argument(
        "--guard", nargs="?", const="default", choices=("default", "first-run"), help="a robot-side guard before it"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=9090, help="port to bind; 0 takes a free one (9090)")
    parser.add_argument("--allow-remote", action="store_true", help="let other machines connect; needs --token-file")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token that clients must show")
    parser.add_argument(
        "--quirks", choices=("none", "rosbridge1", "rosbridge2"), default="none", help="imitate a server"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C, or ask a twin that runs."""
    return serve(args) if args.action == "serve" else ask(args)


def serve(args: argparse.Namespace) -> int:
    """Run the twin, with its gateway or on a ROS graph, until SIGINT or SIGTERM."""
    from robopolicy.real_robot.guard.lease import TOPIC_TARGET
    from robopolicy.real_robot.twin.config import TwinConfig

    ros = {"rospy": "ros1", "rclpy": "ros2"}.get(args.backend, args.ros)
    config = TwinConfig(
        task=args.task,
        seed=args.seed,
        ros=ros,
        controller=args.controller,
        state_rate=args.state_rate,
        cameras=tuple(args.cameras),
        camera_rate=args.camera_rate,
        image_size=tuple(args.image_size),
        lock_step=args.lock_step,
    )
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with _running(args, config) as (runner, where):
        names = config.interface()
        what = args.task or "an empty table"
        print(f"twin: {what} on {where} ({ros}, {args.controller}); Ctrl-C stops it", flush=True)
        command = f"{TOPIC_TARGET} (guarded: each target with a lease)" if args.guard else names.command
        print(f"  command {command}\n  state   {names.state}\n  hand    {names.gripper}", flush=True)
        for name, topic in names.cameras.items():
            print(f"  camera  {name}: {topic}", flush=True)
        while not done.wait(0.5):
            if runner.error:
                raise RobopolicyError(f"the twin has stopped: {runner.error}")
    if runner.lost:
        print(f"twin: {runner.lost / 1000:.1f} s were lost, this machine is too slow for real time with these cameras")
    return 0


@contextlib.contextmanager
def _running(args: argparse.Namespace, config: TwinConfig) -> Iterator[tuple[TwinRunner, str]]:
    """The twin, and where it is to be found."""
    from robopolicy.real_robot.guard.config import GuardConfig
    from robopolicy.real_robot.twin.runner import relayed_twin, running_twin
    from robopolicy.real_robot.wire.backends import make_backend
    from robopolicy.real_robot.wire.gateway_config import GatewayConfig

    if args.backend is not None:
        if args.guard:
            raise ConfigError("guard: on a ROS graph the guard is a node of its own: robopolicy guard run")
        backend = make_backend(args.backend, node="robopolicy_twin")
        with relayed_twin(config, backend) as runner:
            yield runner, f"the graph of {args.backend}"
        return
    door = GatewayConfig(
        host=args.host,
        port=args.port,
        allow_remote=args.allow_remote,
        token_file=args.token_file,
        quirks=args.quirks,
    )
    frame = f"{config.arm_id}_link0"
    guard = {None: None, "default": GuardConfig(frame), "first-run": GuardConfig.first_run(frame)}[args.guard]
    with running_twin(config, door, guard=guard) as (runner, gateway):
        yield runner, gateway.url


def ask(args: argparse.Namespace) -> int:
    """Call one of the services of a running twin; prints its answer."""
    from robopolicy.cli.robot import only_warnings
    from robopolicy.real_robot.wire.client import RosbridgeClient
    from robopolicy.real_robot.wire.client_config import ClientConfig

    only_warnings()
    call = _request(args)
    if call is None:
        from robopolicy.real_robot.twin.faults import FAULTS

        print("\n".join(f"  {name:<18} {text}" for name, (_, text) in FAULTS.items()))
        return 0
    service, kind, request = call
    with RosbridgeClient(ClientConfig(url=args.url, token_file=args.token_file)).connect() as client:
        answer = client.call_service(f"/twin/{service}", kind, request)
    if not answer["success"]:
        raise ConfigError(answer["message"])
    print(answer["message"] or "done")
    return 0


def _request(args: argparse.Namespace) -> tuple[str, str, dict[str, Any]] | None:
    """Service, type and request of an action; None to list the faults."""
    text = "robopolicy_msgs/Text"
    if args.action in ("status", "recover"):
        return args.action, "std_srvs/Trigger", {}
    if args.action == "reset":
        if args.name is not None and not args.name.isdigit():
            raise ConfigError(f"reset: expected a seed, a whole number from 0, got {args.name!r}")
        return "reset", text, {"data": json.dumps({"seed": int(args.name or 0)})}
    if args.action == "clear":
        return "fault", text, {"data": json.dumps({"clear": args.name})}
    asked = {"name": args.name, "value": args.value, "seconds": args.seconds}
    if args.drop_link is not None:
        asked = {"name": "drop_link", "value": None, "seconds": args.drop_link}
    return None if asked["name"] is None else ("fault", text, {"data": json.dumps(asked)})
