"""``RobopolicyFranka``: a driver of ours as a LeRobot ``Robot``.

Source: the interface of LeRobot 0.4.4 (``robots/robot.py``): flat dictionaries, ``send_action`` returns what was really
sent.  Differs from most LeRobot robots: ``connect`` runs the preflight and arms only when told (``arm``, ``operator``,
and a typed word where the robot is not the twin on this machine); an action is a plan of one step, so it goes through
the same limits, watchdogs and states as any other; the first action starts the armed arm; after a second with none it
holds, and resumes by ``robot.driver.resume()`` or, if ``resume_after_pause``, with the next action.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
from lerobot.processor import RobotAction, RobotObservation
from lerobot.robots.robot import Robot

from robopolicy.core.errors import ConfigError, RequestRefused
from robopolicy.core.scheduling import make_ordinary, real_time_threads
from robopolicy.lerobot_plugin.config_franka import RobopolicyFrankaConfig
from robopolicy.real_robot.control.observations import NoSnapshot, Snapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.deploy.actions import ActionForm, Rotation
from robopolicy.real_robot.deploy.channels import PANDA_STATE, read_state
from robopolicy.real_robot.driver.config import FrankaBridgeConfig, bridge_config
from robopolicy.real_robot.driver.contract import Driver, Status
from robopolicy.real_robot.driver.pictures import decode
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.wire.gateway_config import is_loopback
from robopolicy.sim.panda_model import WIDTH_MAX

LOG = logging.getLogger(__name__)
SEE = 2.0  # s within which an observation must be had, and a preflight tried again
LOOK = 0.01  # s between looks
PAUSE = "no new plan"  # how the reason of a hold for want of actions begins
STATES = {
    "yaw": ("tcp_yaw",),
    "quaternion": ("tcp_qx", "tcp_qy", "tcp_qz", "tcp_qw"),
    "rot6d": tuple(f"tcp_rot6d_{i}" for i in range(6)),
    "vector": ("tcp_rx", "tcp_ry", "tcp_rz"),
}


class RobopolicyFranka(Robot):  # type: ignore[misc]
    """See the module.  ``driver`` is the driver behind it, for everything that LeRobot has no word for.

    ``wait`` is called with the seconds to let pass.
    """

    config_class = RobopolicyFrankaConfig
    name = "robopolicy_franka"

    def __init__(self, config: RobopolicyFrankaConfig, ask: Callable[[str], str] = input) -> None:
        super().__init__(config)
        self.config = config
        changes: dict[str, Any] = {"url": config.url} if config.url is not None else {}
        if config.guard is not None:
            changes["guard"] = config.guard
        self.bridge: FrankaBridgeConfig = bridge_config(config.preset, **changes)
        host = urlsplit(self.bridge.url).hostname or ""
        self._here = is_loopback(host) and self.bridge.limits != "first-run" and config.preset == "twin"
        if config.in_process and not self._here:
            raise ConfigError("in_process is for the twin; an arm's control loop needs a process of its own")
        self.form = ActionForm(cast(Rotation, config.rotation), hand="open" if self.bridge.gripper else "none")
        self.driver: Driver | None = None
        self._ask, self.wait = ask, time.sleep
        self._raised = real_time_threads()  # by whoever started this process

    # -- features ------------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> tuple[str, ...]:
        hand = PANDA_STATE[-1:] if self.bridge.gripper else ()
        return (*PANDA_STATE[:3], *STATES[self.config.rotation], *hand)

    @property
    def observation_features(self) -> dict[str, Any]:
        """State channels (float), and cameras as (height, width, 3)."""
        cameras = {name: (*self.bridge.cameras[name].size, 3) for name in self.bridge.camera_names}
        return {**dict.fromkeys(self._state, float), **cameras}

    @property
    def action_features(self) -> dict[str, type]:
        """x, y, z in m, the rotation, and the opening of the hand, 0 closed to 1 open."""
        rotation = tuple(name.removeprefix("tcp_") for name in STATES[self.config.rotation])
        hand = ("gripper",) if self.bridge.gripper else ()
        return dict.fromkeys(("x", "y", "z", *rotation, *hand), float)

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the link is up."""
        driver = getattr(self, "driver", None)
        return driver is not None and driver.status().link

    @property
    def is_calibrated(self) -> bool:
        """The arm calibrates itself."""
        return True

    def calibrate(self) -> None:
        """Nothing: `robopolicy robot calibrate` measures the latencies of a set-up."""

    def configure(self) -> None:
        """Nothing: settings come from the preset."""

    def connect(self, calibrate: bool = True) -> None:
        """Connect; with ``arm`` also preflight and arming.  Raises ``RequestRefused`` with what is not green."""
        if self.driver is not None:
            raise RequestRefused("connect: this robot is connected; disconnect first")
        self.driver = self._make()
        try:
            self.driver.connect(monitor_only=not self.config.arm)
            if self.config.in_process:
                cast(Any, self.driver).run_thread()
            self._wait_for_sight()
            if self.config.arm:
                self._arm(self.driver)
        except BaseException:
            self.disconnect()
            raise

    def _make(self) -> Driver:
        if self.config.in_process:
            from robopolicy.real_robot.driver.local import LocalDriver

            return LocalDriver(self.bridge)
        from robopolicy.real_robot.driver.remote import FrankaBridgeRobot

        return cast(Driver, FrankaBridgeRobot(self.bridge))

    def _arm(self, driver: Driver) -> None:
        end = driver.clock.now() + SEE
        report = driver.preflight()
        while not report.green and driver.clock.now() < end:
            self.wait(LOOK)
            report = driver.preflight()
        self.wait(LOOK)
        if not report.green:
            raise RequestRefused("preflight: " + "; ".join(report.failures()))
        operator = self.config.operator.strip()
        driver.ask_to_arm(operator)
        if not self._here:
            words = f"{operator}: workspace clear, stop device in hand? Type ARM to let the arm move: "
            if self._ask(words).strip() != "ARM":
                raise RequestRefused("arming was not confirmed; nothing moves")
        driver.confirm_arming(operator)

    def disconnect(self) -> None:
        """Hold, send the stop target, close; twice does no harm."""
        driver, self.driver = getattr(self, "driver", None), None
        if driver is not None:
            driver.disconnect()

    # -- seeing and moving ---------------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        if self.driver is None:
            raise RequestRefused("this robot is not connected: connect() first")
        self._stay_below()
        end, why = self.driver.clock.now() + SEE, ""
        while self.driver.clock.now() < end:
            found = self.driver.snapshot(1, 1 / self.config.fps)
            if not isinstance(found, NoSnapshot):
                return found
            why = found.why
            self.wait(LOOK)
        raise RequestRefused(f"no observation within {SEE:g} s: {why}")

    def _stay_below(self) -> None:
        """Stay below the arm's control process: LeRobot's recorder encodes AV1 here, which raises root's threads."""
        if not self.config.in_process and (raised := real_time_threads() - self._raised):
            LOG.warning("%d threads of this process ran in real time; made ordinary", make_ordinary(raised))

    def _wait_for_sight(self) -> None:
        self._snapshot()

    def get_observation(self) -> RobotObservation:
        """State channels as floats, pictures ``(height, width, 3)`` uint8 RGB, all of one instant."""
        seen = self._snapshot()
        values = read_state(seen, self._state)[-1].tolist()
        pictures = {name: decode(seen.frames[name][-1], self.bridge.cameras[name].size) for name in seen.frames}
        return {**dict(zip(self._state, values, strict=True)), **pictures}

    def send_action(self, action: RobotAction) -> RobotAction:
        """Aim at ``action`` (all of ``action_features``) one period from now; returns the setpoint last emitted.

        Raises ``RequestRefused`` where the state does not let the arm move, ``ConfigError`` for other keys or numbers.
        """
        names = tuple(self.action_features)
        if set(action) != set(names):
            raise ConfigError(f"action: expected {', '.join(names)}, got {', '.join(map(str, action))}")
        numbers = np.array([[float(action[name]) for name in names]])
        if not np.isfinite(numbers).all():
            raise ConfigError(f"action: expected finite numbers, got {numbers[0].tolist()}")
        if self.driver is None:
            raise RequestRefused("this robot is not connected: connect() first")
        status = self._moving(self.driver)
        if status.state is not State.RUNNING or status.measured is None:
            why = f" ({status.why})" if status.why else ""
            raise RequestRefused(f"the arm is in state {status.state.value}{why}; nothing is sent")
        period = 1 / self.config.fps
        track, width = self.form.poses(numbers, status.measured)
        due = np.array((self.driver.clock.now() + self.bridge.arm_latency + period,))
        self.driver.submit(Waypoints(track, due, period, status.epoch, width))
        emitted = status.emitted or status.measured
        return dict(zip(names, self._numbers(emitted, status.emitted_gripper, status.width), strict=True))

    def _moving(self, driver: Driver) -> Status:
        """The status; the first action of an armed arm starts it, and one after a pause resumes it, if that was asked
        for."""
        status = driver.status()
        paused = status.state is State.HOLD and status.why.startswith(PAUSE)
        if status.state is State.ARMED:
            driver.start()
        elif paused and self.config.resume_after_pause:
            driver.resume()
        else:
            return status
        end = driver.clock.now() + SEE
        while (status := driver.status()).state is not State.RUNNING and driver.clock.now() < end:
            self.wait(LOOK)
        return status

    def _numbers(self, pose: Pose, asked: float | None, measured: float | None) -> list[float]:
        width = asked if asked is not None else measured if measured is not None else WIDTH_MAX
        track = Pose(pose.position[None], pose.quaternion[None])
        numbers: list[float] = self.form.actions(track, np.array((width,)), pose)[0].tolist()
        return numbers
