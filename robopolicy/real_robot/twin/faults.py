"""The fault port: everything that can go wrong with the robot and its link, on demand, for seconds or for good.

Source: the failure list of our specification.  Faults of arm, hand, cameras, state and clock are the twin's own;
those of the wire are passed on to the gateway that serves it (``attach``).  ``seconds`` counts in the twin's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.twin.cameras import FAULTS as CAMERA_FAULTS

if TYPE_CHECKING:
    from robopolicy.real_robot.twin.twin import Twin

DROP_AGAIN = 20.0  # Hz at which clients that come back during a dropped link are dropped again
KNOBS = ("delay", "jitter", "drop", "corrupt", "truncate", "duplicate", "reorder", "truncate_in", "drop_in")


class Wire(Protocol):
    """What the fault port needs of a gateway."""

    faults: Any
    """Has ``set(**knobs)``."""

    def drop_clients(self) -> None:
        """Cut every connection."""
        ...

    def freeze(self, seconds: float) -> None:
        """Stand still with every connection open."""
        ...


class FaultPort:
    """Injects faults by name: ``inject("user_stop")``, ``inject("camera_freeze", "wrist", seconds=2)``.

    ``value`` is a number, a word or on/off, as ``FAULTS`` says; most faults end with ``clear``, or by themselves
    after ``seconds``.  Raises ``ConfigError`` for an unknown name or a value that does not fit.
    """

    def __init__(self, twin: Twin) -> None:
        self._twin = twin
        self._wire: Wire | None = None
        self._ends: dict[str, tuple[object, Callable[[], None]]] = {}
        self.active: dict[str, Any] = {}

    def attach(self, wire: Wire) -> None:
        """The gateway that the wire faults go to."""
        self._wire = wire

    def inject(self, name: str, value: Any = None, seconds: float | None = None) -> None:
        """Begin a fault; with ``seconds`` it ends by itself."""
        if name not in FAULTS:
            raise ConfigError(f"unknown fault '{name}'" + did_you_mean(name, FAULTS))
        if seconds is not None and not 0 < float(seconds) <= 3600:
            raise ConfigError(f"fault {name}: expected up to 3600 seconds, got {seconds}")
        begin, _ = FAULTS[name]
        with self._twin.lock:
            end = begin(self, value)
            if end is None:
                return
            token = object()
            self.active[name] = value if value is not None else True
            self._ends[name] = (token, end)
            if seconds is not None:
                self._twin.schedule.after(float(seconds), lambda: self._expire(name, token))

    def _expire(self, name: str, token: object) -> None:
        if name in self._ends and self._ends[name][0] is token:
            self.clear(name)

    def clear(self, name: str | None = None) -> None:
        """End one fault, or all of them; what it did to the arm (a stop, an error) stays until recovered."""
        with self._twin.lock:
            for each in [name] if name is not None else list(self._ends):
                if each in self._ends:
                    self._ends.pop(each)[1]()
                    self.active.pop(each, None)

    @property
    def wire(self) -> Wire:
        """The gateway; raises ``ConfigError`` without one."""
        if self._wire is None:
            raise ConfigError("this twin has no gateway, so its wire has no faults; start it with robopolicy twin")
        return self._wire

    # -- one function a fault: it begins the fault and returns what ends it, None if nothing does ----------------------

    def _user_stop(self, value: Any) -> Callable[[], None]:
        self._twin.arm.press_stop()
        return self._twin.arm.release_stop

    def _reflex(self, value: Any) -> None:
        from robopolicy.real_robot.twin.messages import error_names

        name = "cartesian_reflex" if value in (None, True) else str(value)
        known = error_names("ros1")
        if name not in known:
            raise ConfigError(f"unknown error flag '{name}'" + did_you_mean(name, known))
        self._twin.arm.reflex(name)

    def _guiding(self, value: Any) -> Callable[[], None]:
        self._twin.arm.guide(True)
        return lambda: self._twin.arm.guide(False)

    def _crash(self, value: Any) -> None:
        self._twin.arm.crash()

    def _nan_target(self, value: Any) -> None:
        self._twin.aim(Pose(np.full(3, np.nan), np.full(4, np.nan)))

    def _restart(self, value: Any) -> None:
        self._twin.arm.restart_node()

    def _recovery_fails(self, value: Any) -> Callable[[], None]:
        face = self._face()
        face.recovery_works = False
        return lambda: setattr(face, "recovery_works", True)

    def _tool(self, value: Any) -> Callable[[], None]:
        arm, before = self._twin.arm, self._twin.arm.tool.copy()
        moved = before.copy()
        moved[2, 3] += _number("tool", value, -0.2, 0.2)
        arm.set_tool(moved)
        return lambda: arm.set_tool(before)

    def _gripper_fail(self, value: Any) -> None:
        self._twin.hand.failing = int(_number("gripper_fail", 1 if value in (None, True) else value, 1, 1000))

    def _gripper_slow(self, value: Any) -> Callable[[], None]:
        hand = self._twin.hand
        hand.slowness = _number("gripper_slow", 10 if value in (None, True) else value, 1, 1000)
        return lambda: setattr(hand, "slowness", 1.0)

    def _gripper_lost(self, value: Any) -> None:
        self._twin.hand.lose_object()

    def _state_stop(self, value: Any) -> Callable[[], None]:
        face = self._face()
        face.state_fault = "stop"
        return lambda: setattr(face, "state_fault", "")

    def _state_freeze(self, value: Any) -> Callable[[], None]:
        face = self._face()
        face.state_fault = "freeze"
        return lambda: setattr(face, "state_fault", "")

    def _state_rate(self, value: Any) -> Callable[[], None]:
        face = self._face()
        face.set_state_rate(_number("state_rate", value, 0.5, 1000))
        return lambda: face.set_state_rate(self._twin.config.state_rate)

    def _clock_skew(self, value: Any) -> Callable[[], None]:
        clock, step = self._twin.clock, _number("clock_skew", value, -1e6, 1e6)
        clock.skew += step

        def back() -> None:
            clock.skew -= step

        return back

    def _second_publisher(self, value: Any) -> Callable[[], None]:
        face = self._face()
        face.intrude(True)
        return lambda: face.intrude(False)

    def _drop_link(self, value: Any) -> Callable[[], None]:
        # The first cut comes a twentieth of a second later, so that whoever asked over the wire hears the answer.
        wire, schedule = self.wire, self._twin.schedule
        schedule.every("drop_link", DROP_AGAIN, wire.drop_clients)
        return lambda: schedule.cancel("drop_link")

    def _freeze_server(self, value: Any) -> None:
        wire, time = self.wire, _number("freeze_server", 3.0 if value in (None, True) else value, 0.01, 60)
        self._twin.schedule.after(1 / DROP_AGAIN, lambda: wire.freeze(time))

    def _face(self) -> Any:
        if self._twin.face is None:
            raise ConfigError("this twin is on no bus, so it publishes nothing that could fail; call bind first")
        return self._twin.face


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"fault {name}: expected a number, got {value!r}") from None
    if not low <= number <= high:
        raise ConfigError(f"fault {name}: expected {low:g} to {high:g}, got {number:g}")
    return number


def _camera(kind: str) -> Callable[[FaultPort, Any], Callable[[], None]]:
    def begin(port: FaultPort, value: Any) -> Callable[[], None]:
        cameras = port._twin.cameras
        names = cameras.names if value in (None, True, "all") else (str(value),)
        for name in names:
            if name not in cameras.names:
                raise ConfigError(f"fault camera_{kind}: no camera '{name}'" + did_you_mean(name, cameras.names))
            cameras.faults[name] = kind

        def end() -> None:
            for name in names:
                if cameras.faults.get(name) == kind:
                    del cameras.faults[name]

        return end

    return begin


def _knob(name: str) -> Callable[[FaultPort, Any], Callable[[], None]]:
    def begin(port: FaultPort, value: Any) -> Callable[[], None]:
        wire = port.wire
        wire.faults.set(**{name: _number(name, 1.0 if value in (None, True) else value, 0, 10)})
        return lambda: wire.faults.set(**{name: 0.0})

    return begin


Begin = Callable[[FaultPort, Any], Callable[[], None] | None]
FAULTS: dict[str, tuple[Begin, str]] = {
    "user_stop": (FaultPort._user_stop, "somebody presses the user stop (clear: lets it go)"),
    "reflex": (FaultPort._reflex, "the arm stops with an error flag: its name, or cartesian_reflex"),
    "guiding": (FaultPort._guiding, "somebody leads the arm by hand"),
    "crash": (FaultPort._crash, "the control node ends: all topics fall silent"),
    "nan_target": (FaultPort._nan_target, "a target of NaN reaches the controller, whose node then ends"),
    "restart": (FaultPort._restart, "start the control node again"),
    "recovery_fails": (FaultPort._recovery_fails, "error recovery is refused"),
    "tool": (FaultPort._tool, "F_T_EE is not what was configured: metres along z"),
    "gripper_fail": (FaultPort._gripper_fail, "the next n commands of the hand fail (1)"),
    "gripper_slow": (FaultPort._gripper_slow, "the hand is n times slower (10)"),
    "gripper_lost": (FaultPort._gripper_lost, "what the hand holds slips out"),
    "state_stop": (FaultPort._state_stop, "no more state messages"),
    "state_freeze": (FaultPort._state_freeze, "state messages repeat the last one, old stamp included"),
    "state_rate": (FaultPort._state_rate, "another rate of the state messages, Hz"),
    "clock_skew": (FaultPort._clock_skew, "the robot's clock jumps by so many seconds"),
    "second_publisher": (FaultPort._second_publisher, "another node publishes targets too"),
    "drop_link": (FaultPort._drop_link, "connections are cut, and cut again when clients come back"),
    "freeze_server": (FaultPort._freeze_server, "the server stands still for so many seconds (3)"),
    **{f"camera_{kind}": (_camera(kind), f"{kind} of one camera by name, or of all") for kind in CAMERA_FAULTS},
    **{knob: (_knob(knob), f"frames of the wire: {knob} (seconds, or share of frames)") for knob in KNOBS},
}
"""Name -> (how it begins, what it is)."""
