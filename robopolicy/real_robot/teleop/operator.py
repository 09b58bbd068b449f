"""Who is in command: takes the arm while the human holds the device, and lets go of it, by the driver's own rules.

Source: hand-over by a held button as in LeRobot's and HG-DAgger's interventions.  A held device makes RUNNING into
HUMAN at every step, so the human wins over the policy; letting go, or losing the device, makes HOLD.  Going on after
that is the operator's order, never a consequence.
"""

from __future__ import annotations

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.states import MOVING, State
from robopolicy.real_robot.driver.contract import Driver, Status
from robopolicy.real_robot.safety.types import Setpoint
from robopolicy.real_robot.teleop.device import Reading, TeleopDevice
from robopolicy.real_robot.teleop.jog import Jog


class Teleoperator:
    """Joins a device to a driver; call ``step`` at 20 Hz or more (50 is good).

    ``alone``: there is no policy; then taking the device is the order to start or to go on as well.
    ``wish`` and ``wished_at``: the last setpoint given to the driver, for a recorder.  ``trouble``: what was refused
    last, for the operator's screen.  ``beats``: whether an attended device is the dead-man's heartbeat; false where
    something else is, which a gamepad that merely lies there must not drown out.
    """

    def __init__(self, driver: Driver, device: TeleopDevice, jog: Jog, alone: bool = False, beats: bool = True) -> None:
        self.driver, self.device, self.jog, self.alone, self.beats = driver, device, jog, alone, beats
        self.wish: Setpoint | None = None
        self.wished_at = 0.0
        self.trouble = ""
        self._held = False

    def step(self) -> Reading:
        """Read the device once and do what it says."""
        now = self.driver.clock.now()
        reading = self.device.read(now)
        if self.beats and reading.attended and not reading.lost:
            self.driver.heartbeat()
        status = self.driver.status()
        try:
            self._obey(reading)
            status = self._hand_over(reading, status)
        except RequestRefused as e:
            self.trouble = str(e)
            status = self.driver.status()
        self._held = reading.held
        if status.state is not State.HUMAN or not reading.held or status.emitted is None:
            self.jog.drop()
            self.wish = None
            return reading
        if not self.jog.anchored:
            self.jog.anchor(status.emitted, now)
        self.wish, self.wished_at = self.jog.step(reading, status.emitted, now), now
        self.driver.teleop(self.wish)
        return reading

    def _obey(self, reading: Reading) -> None:
        for command in reading.commands:
            if command == "estop":
                self.driver.estop()
            elif command == "pause":
                self.driver.pause()
            elif command == "resume":
                self.driver.resume()
            elif command in ("faster", "slower"):
                self.jog.change_speed(command == "faster")

    def _hand_over(self, reading: Reading, status: Status) -> Status:
        """The state that the device asks for; returns the status after it."""
        if reading.lost:
            if status.state in MOVING:
                self.driver.pause(f"teleoperation: {reading.lost}")
        elif reading.held:
            taken = self.alone and not self._held
            if taken and status.state is State.ARMED:
                self.driver.start()
            elif taken and status.state is State.HOLD:
                self.driver.resume()
            elif status.state is not State.RUNNING:
                return status
            self.driver.intervene()
        elif status.state is State.HUMAN:
            self.driver.release()
        else:
            return status
        self.trouble = ""
        return self.driver.status()
