"""Options that every ``robot`` command shares: which robot, where, how it is limited; and who holds the stop."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.real_robot.driver.config import FrankaBridgeConfig


def add_robot_options(parser: argparse.ArgumentParser) -> None:
    """Which robot."""
    group = parser.add_argument_group("robot")
    group.add_argument("--robot", default="twin", metavar="NAME|FILE", help="preset or YAML of the set-up (twin)")
    group.add_argument("--url", help="address of the bridge (that of the set-up: ws://127.0.0.1:9090)")
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST", help="may be connected to, besides this machine"
    )
    group.add_argument("--token-file", metavar="FILE", help="file with the gateway's token")
    group.add_argument("--limits", help="safety limits: first-run, default, or a YAML file (that of the set-up)")
    group.add_argument("--calibration", metavar="FILE", help="latencies that `robot calibrate` has written")
    group.add_argument("--objects", metavar="TOPIC", help="of a tracker of objects, for policies without cameras")
    group.add_argument("--cameras", nargs="*", metavar="NAME", help="of the set-up's cameras use these; none for none")


def add_arming_options(parser: argparse.ArgumentParser) -> None:
    """Whether it may move, and who answers for it."""
    group = parser.add_argument_group("moving the arm")
    group.add_argument("--arm", action="store_true", help="let it move; without this nothing is sent")
    group.add_argument("--operator", metavar="NAME", help="who holds the stop device; goes into the record")
    group.add_argument(
        "--yes-i-hold-the-stop",
        metavar="NAME",
        dest="holds_stop",
        help="for scripts: NAME holds the stop device, ask nothing",
    )
    group.add_argument(
        "--in-process",
        action="store_true",
        help="control loop in a thread, not in a process of its own (the twin only)",
    )


def robot_config(args: argparse.Namespace, **changes: Any) -> FrankaBridgeConfig:
    """The set-up with what the command line says on top; raises ``ConfigError``."""
    from robopolicy.core.configs import dump_config
    from robopolicy.real_robot.driver.config import bridge_config

    asked: dict[str, Any] = {**calibration(args.calibration), **changes}
    for key, value in (
        ("url", args.url),
        ("token_file", args.token_file),
        ("limits", args.limits),
        ("objects", args.objects),
    ):
        if value is not None:
            asked[key] = value
    if args.allow_host:
        asked["allowed_hosts"] = tuple(args.allow_host)
    if args.cameras is not None:
        known = dump_config(bridge_config(args.robot))["cameras"]
        for name in args.cameras:
            if name not in known:
                raise ConfigError(
                    f"--cameras: there is no '{name}' in {args.robot}; it has {', '.join(known) or 'none'}"
                )
        asked["cameras"] = {name: known[name] for name in args.cameras}
        asked["anchor"] = args.cameras[0] if args.cameras else None
    return bridge_config(args.robot, **asked)


def calibration(file: str | None) -> dict[str, float]:
    """The latencies in a file of ``robot calibrate``."""
    if file is None:
        return {}
    from pathlib import Path

    from robopolicy.real_robot.hardware import read_yaml

    found = dict(read_yaml(Path(file)))
    if wrong := set(found) - {"arm_latency", "gripper_latency"}:
        raise ConfigError(f"{file}: expected arm_latency and gripper_latency only, got {', '.join(sorted(wrong))}")
    return found


def operator_of(args: argparse.Namespace, terminal: bool, twin: bool) -> str:
    """Who arms; raises ``ConfigError`` for a command line that does not say so.

    ``terminal``: somebody can be asked.  ``twin``: what answers is the twin, on this machine.
    """
    if args.holds_stop is not None:
        if args.operator is not None and args.operator != args.holds_stop:
            raise ConfigError("--operator and --yes-i-hold-the-stop name two people; the one who holds the stop arms")
        name = args.holds_stop
    else:
        name = args.operator
        if not terminal and not twin:
            raise ConfigError(
                "--arm: there is no terminal to confirm on; somebody must hold the stop device and be named: "
                "--yes-i-hold-the-stop NAME"
            )
    if name is None or not name.strip():
        raise ConfigError("--arm: name who holds the stop device: --operator NAME")
    if args.in_process and not twin:
        raise ConfigError(
            "--in-process is for the twin; an arm's control loop needs a process of its own: leave it out"
        )
    return str(name).strip()
