"""Opening a driver for a command: which one, with which log, and whether what answers is the simulated twin."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import BridgeError, RobopolicyError

if TYPE_CHECKING:
    from robopolicy.real_robot.driver.config import FrankaBridgeConfig
    from robopolicy.real_robot.driver.contract import Driver


class NotArmed(RobopolicyError):
    """The operator did not confirm, or preflight speaks against arming."""


@contextlib.contextmanager
def opened_driver(
    config: FrankaBridgeConfig,
    log: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    in_process: bool = False,
) -> Iterator[Driver]:
    """A driver that is not connected yet; disconnected (hold, stop target, topic taken back) when the block ends.

    ``log``: a new folder for the run's log.  ``in_process``: the control loop in a thread of this process.
    """
    if not in_process:
        from robopolicy.real_robot.driver.remote import FrankaBridgeRobot

        robot = FrankaBridgeRobot(config, log, facts)
        try:
            yield robot
        finally:
            robot.disconnect()
        return
    from robopolicy.real_robot.driver.local import LocalDriver
    from robopolicy.real_robot.log.runlog import RunLog
    from robopolicy.real_robot.log.settings import loop_settings

    driver = LocalDriver(config)
    kept = None
    if log is not None:
        kept = RunLog(log, loop_settings(config), driver.clock, facts)
        driver.tap, driver.recording = kept, kept.recording
    why = "an exception in the program"
    try:
        yield driver
        why = "done"
    finally:
        driver.disconnect()
        if kept is not None:
            kept.close(why)


def connect(driver: Driver, monitor_only: bool) -> None:
    """Open the link and let the loop tick."""
    driver.connect(monitor_only=monitor_only)
    if (tick := getattr(driver, "run_thread", None)) is not None:
        tick()


def ask_twin(config: FrankaBridgeConfig, service: str = "status", **request: Any) -> dict[str, Any] | None:
    """The answer of one of the twin's own services, ``None`` if what is at the address is no twin.

    A robot behind a tunnel has a loopback address too: only the twin itself can say that it is one.
    """
    from robopolicy.real_robot.wire.client import RosbridgeClient

    kind, message = "std_srvs/Trigger", {}
    if request:
        kind, message = "robopolicy_msgs/Text", {"data": json.dumps(request)}
    try:
        with RosbridgeClient(config.client()).connect() as client:
            answer = client.call_service(f"/twin/{service}", kind, message)
    except BridgeError:
        return None
    if not answer["success"]:
        raise RobopolicyError(f"twin: {answer['message']}")
    found = json.loads(answer["message"] or "{}") if service == "status" else {}
    return dict(found)


def is_twin(config: FrankaBridgeConfig) -> bool:
    """Whether the twin answers, on this machine."""
    from urllib.parse import urlsplit

    from robopolicy.real_robot.wire.gateway_config import is_loopback

    return is_loopback(urlsplit(config.url).hostname or "") and ask_twin(config) is not None
