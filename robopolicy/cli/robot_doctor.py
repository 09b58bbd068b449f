"""Check a robot before it is armed: link, types, rates, clocks, tool, joints, workspace, command topic.

  robopolicy robot doctor                                the twin, or whatever is on ws://127.0.0.1:9090
  robopolicy robot doctor --robot panda_franka_ros --url ws://10.0.0.5:9090 --allow-host 10.0.0.5
  robopolicy robot doctor --json

Nothing is sent to the arm; a probe topic of its own is written to.  Every finding comes with its cure.

exit codes: 0 all green (warnings included), 1 something speaks against arming, 2 wrong input
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from robopolicy.cli._robot_options import add_robot_options, robot_config
from robopolicy.core.errors import BridgeError, ConfigError

if TYPE_CHECKING:
    from robopolicy.real_robot.driver.config import FrankaBridgeConfig
    from robopolicy.real_robot.driver.contract import Check, Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_robot_options(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Look at everything; returns the exit code."""
    from robopolicy.real_robot.driver.contract import Report

    checks = list(address_checks(args))
    if not any(not c.passed and not c.warning for c in checks):
        config = robot_config(args)
        known = {c.name for c in checks}
        checks += [c for c in robot_checks(config) if c.name not in known or not c.warning]
    report = Report(tuple(checks))
    if args.json:
        print(json.dumps({"green": report.green, "checks": [dataclasses.asdict(c) for c in report.checks]}, indent=1))
    else:
        print_report(report)
    return 0 if report.green else 1


def address_checks(args: argparse.Namespace) -> list[Check]:
    """What can be said of the address before anything is sent to it."""
    from robopolicy.real_robot.driver.config import bridge_config
    from robopolicy.real_robot.driver.contract import Check
    from robopolicy.real_robot.wire.client_config import check_resolved, check_url, warnings_of

    setup = bridge_config(args.robot)
    url = args.url or setup.url
    hosts = (*setup.allowed_hosts, *args.allow_host)
    cure = "tunnel it (ssh -L 9090:localhost:9090 HOST), or name the host: --allow-host HOST"
    try:
        check_url(url, hosts)
        check_resolved(url)
    except ConfigError as e:
        return [Check("address", False, str(e), "this machine, an allowed host, or wss", cure)]
    warned = [Check("address", False, text, "loopback", cure, warning=True) for text in warnings_of(url)]
    return warned or [Check("address", True, url)]


def robot_checks(config: FrankaBridgeConfig) -> list[Check]:
    """What a driver that only watches finds."""
    from robopolicy.real_robot.driver.contract import Check
    from robopolicy.real_robot.driver.local import LocalDriver

    with LocalDriver(config) as driver:
        try:
            driver.connect(monitor_only=True)
            driver.run_thread()
            return list(driver.preflight().checks)
        except BridgeError as e:
            cure = "is the bridge up (robopolicy twin starts a simulated one)? does the token fit?"
            return [Check("link", False, str(e), "up", cure)]


def print_report(report: Report) -> None:
    """The checks as a table, findings with their cures, and the outcome."""
    width = max((len(c.name) for c in report.checks), default=0)
    for c in report.checks:
        mark = "ok     " if c.passed else "warning" if c.warning else "FAILED "
        expected = f"   (expected {c.expected})" if c.expected and not c.passed else ""
        print(f"{mark}  {c.name:<{width}}  {c.found}{expected}")
        if not c.passed and c.cure:
            print(f"{'':9}{'':<{width}}  cure: {c.cure}")
    failed = [c.name for c in report.checks if not c.passed and not c.warning]
    print(f"\n{len(report.checks) - len(failed)} of {len(report.checks)} checks do not speak against arming")
    if failed:
        print(f"not to be armed: {', '.join(failed)}")
