"""The hand beside the arm: a policy's widths become single goals, one at a time, and failures become holds.

Source: franka_gripper's actions (a grasp closes until something is met, then says whether its width was within the
bounds of the goal).  A policy tells a width at every tick; the hand takes one goal after another and each takes up to a
second, so a goal is sent only when the wish is far enough from the last one, and the newest wish wins.
Differs from sending every width: a held object is not let go and gripped again because the wish trembles.

Polled: ``tick`` looks, sends, and returns; nothing here waits, so it may be called from the control loop.  It is not
locked; whoever owns the loop serialises the calls.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter, deque

from robopolicy.core.errors import BridgeError, LinkDown, RequestRefused
from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.gripper_config import GripperConfig
from robopolicy.real_robot.driver.gripper_goals import GripperEvent, Kind, Running
from robopolicy.real_robot.interface import Interface
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.safety.types import WIDTH_MOST
from robopolicy.real_robot.wire.client import LinkState, RosbridgeClient
from robopolicy.real_robot.wire.client_actions import ActionClient
from robopolicy.real_robot.wire.messages import Message
from robopolicy.real_robot.wire.schema import spelled

SETTLE = 0.3  # s after a grasp until the width, read ten times a second, is that of the object
MARGIN = 0.005  # m by which an object may seem wider than the last reading


class GripperWorker:
    """Sends goals to the hand, one at a time.

    ``open`` first, on a link that is up and may command (it advertises the goals' topics).  Then, at every tick,
    ``wish`` with the width that the record of the tick says, ``None`` included, and ``tick``.  ``problem`` says why the
    last goal failed: the arm holds as long as it stands (``Health.gripper``).  The operator's ``retry`` (part of
    resuming) sends that goal again, at most ``retries`` times; then ``fault`` (``Health.gripper_fault``).
    """

    def __init__(
        self,
        client: RosbridgeClient,
        names: Interface,
        clock: Clock,
        config: GripperConfig | None = None,
        limits: SafetyLimits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.config = config or GripperConfig()
        self.counters: Counter[str] = Counter()
        self.events: deque[GripperEvent] = deque(maxlen=256)
        self.problem: str | None = None
        self.fault = False
        self._client, self._names, self._clock = client, names, clock
        self._limits, self._t = limits or SafetyLimits(), timeouts or Timeouts()
        self._actions: dict[str, ActionClient] = {}
        self._ids = itertools.count(1)
        self._running: Running | None = None
        self._wish: float | None = None
        self._goal: float | None = None
        self._sent = -math.inf
        self._measured: float | None = None
        self._failed: tuple[Kind, float] | None = None
        self._again = False
        self._retries = 0
        self._held_since: float | None = None
        self._held_width: float | None = None

    # -- what the driver calls -----------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a goal is under way."""
        return self._running is not None

    @property
    def holding(self) -> bool:
        """Whether an object was grasped and neither let go nor lost since."""
        return self._held_since is not None

    def open(self) -> None:
        """Announce the goals' topics (ROS 1); never for a driver that only watches.  Twice does no harm."""
        if not self._actions:
            package, prefix = self._names.gripper_package, self._names.gripper
            kinds = ["homing", "move", "grasp", *(["stop"] if self._names.ros == "ros1" else [])]
            self._actions = {k: ActionClient(self._client, f"{prefix}/{k}", f"{package}/{k.title()}") for k in kinds}

    def wish(self, width: float | None) -> None:
        """The newest width wanted, m, or ``None``: nothing is wanted, and a wish that waits is not begun either.

        Clamped to 0..0.079, and counted when it had to be; what is no number is counted and ignored.
        """
        if width is None:
            self._wish = None
            return
        if not math.isfinite(width):
            self.counters["not_finite"] += 1
            return
        clamped = min(max(float(width), 0.0), WIDTH_MOST)
        self.counters["clamped"] += clamped != width
        self._wish = clamped

    def tick(self, now: float, measured: float | None = None) -> None:
        """Look after the goal under way and send the next one if it is due.

        ``measured``: width between the fingers, m; ``None`` when no fresh one is known.
        """
        self._measured = measured if measured is not None and math.isfinite(measured) else None
        if self._running is not None:
            self._look(self._running, now)
        self._look_for_slip(now)
        if self._running is not None:
            return
        if self._again and self._failed is not None:
            self._again = False
            self._send(*self._failed, now)
        elif self.problem is None and self._wish is not None and (kind := self._due(self._wish, now)) is not None:
            self._send(kind, self._wish, now)

    def retry(self) -> None:
        """The operator has looked: forget the problem and send the failed goal again with the next tick.

        After a grasp that holds nothing it is the policy that tries again.  Raises ``RequestRefused`` when the retries
        are used up.
        """
        if self.problem is None:
            return
        if self.fault:
            raise RequestRefused(f"gripper: {self.problem}; tried {self.config.retries} times again: recover, then arm")
        self._retries += 1
        # With nothing to send again the order must not wait for whatever fails next.
        self.problem, self._again = None, self._failed is not None

    def home(self, state: State) -> None:
        """Homing: the fingers close and open fully; raises ``RequestRefused`` in any state but READY."""
        if state is not State.READY:
            raise RequestRefused(f"gripper homing: not in state {state.value}, only in ready; disarm first")
        if self._running is not None:
            raise RequestRefused(f"gripper homing: a {self._running.kind} is under way; wait for its end")
        self.reset()
        self._send("homing", WIDTH_MOST, self._clock.now())

    def stop(self) -> None:
        """Ask the hand to stand; what it holds may be let go.  Never raises."""
        if self._running is not None:
            self._end(self._running)
        try:
            if self._names.ros == "ros1" and "stop" in self._actions:
                self._actions["stop"].forget(self._actions["stop"].send().id)
            elif self._actions:
                frame = {"op": "call_service", "service": f"{self._names.gripper}/stop", "args": {}}
                frame["type"] = spelled("std_srvs/Trigger", "ros2", "srv")
                self._client.begin(f"call_service:gripper_stop:{next(self._ids)}", frame)
        except BridgeError as e:
            self._note("stop not sent", 0.0, str(e))

    def halt(self) -> None:
        """The arm was stopped for good: fingers under way stand where they are, and no wish is left.

        A grasp that is done is not touched: the hand keeps its force, since what falls may be worse.  Never raises.
        """
        self._wish, self._failed, self._again = None, None, False
        if self._running is not None:
            self._note("stopped", self._running.width, self._running.kind)
            self._break_off(self._running)

    def reset(self) -> None:
        """After a recovery, and before arming: no problem, no fault, no wish, and the next wish makes a goal."""
        self.problem, self.fault, self._failed, self._again, self._retries = None, False, None, False, 0
        self._wish = self._goal = self._held_since = self._held_width = None

    # -- when a wish is a goal -----------------------------------------------------------------------------------------

    def _due(self, wish: float, now: float) -> Kind | None:
        c, here = self.config, self._measured
        if now - self._sent < c.interval:
            return None
        if self.holding:
            held = here if here is not None else self._held_width
            if held is None or wish <= held + c.threshold:
                return None  # it is held already
        last = self._goal if self._goal is not None else here
        if last is not None and abs(wish - last) <= c.threshold:
            return None
        closing = here is None or wish < here - c.threshold
        return "grasp" if c.expect_object and closing and wish < c.grasp_below else "move"

    def _values(self, kind: Kind, width: float) -> tuple[Message, float]:
        """Goal and time limit."""
        speed = self._limits.gripper_speed
        if kind == "homing":
            return {}, self._t.homing
        if kind == "move":
            return {"width": width, "speed": speed}, self._t.gripper
        # Anything between "nothing" and where the fingers are now counts as held, whatever its size.
        most = (max(self._measured, 0.0) if self._measured is not None else WIDTH_MOST) + MARGIN
        least = min(self.config.smallest, most / 2)
        middle, reach = (least + most) / 2, (most - least) / 2
        goal: Message = {"width": middle, "epsilon": {"inner": reach, "outer": reach}, "speed": speed}
        return {**goal, "force": self._limits.gripper_force}, self._t.gripper

    def _send(self, kind: Kind, width: float, now: float) -> None:
        self._goal, self._sent = width, now
        self._held_since = self._held_width = None
        try:
            if kind not in self._actions:
                raise LinkDown("the hand's actions are not open")
            values, limit = self._values(kind, width)
            handle = self._actions[kind].send(values)
        except BridgeError as e:
            return self._fail(kind, width, now, str(e))
        self.counters[f"{kind}s"] += 1
        self._note(kind, width)
        self._running = Running(kind, width, handle, now, limit)
        return None

    # -- what becomes of a goal ----------------------------------------------------------------------------------------

    def _look(self, goal: Running, now: float) -> None:
        handle, lasted = goal.handle, now - goal.since
        if handle.outcome.done():
            self._end(goal)
            error = handle.outcome.exception()
            if error is not None:
                return self._fail(goal.kind, goal.width, now, str(error))
            outcome = handle.outcome.result()
            # The node may report "succeeded" for a goal whose result says that it was not.
            if outcome.succeeded and outcome.result.get("success", True):
                return self._succeed(goal, now)
            said = outcome.text or str(outcome.result.get("error", ""))
            why = outcome.state.name.lower() + (f": {said}" * bool(said))
            return self._fail(goal.kind, goal.width, now, why, self._empty(goal.kind))
        if self._client.state is not LinkState.UP or self._client.epoch != handle.epoch:
            self._end(goal)
            return self._fail(goal.kind, goal.width, now, "the link was lost while it was under way")
        # A ROS 2 bridge does not tell that a goal was accepted: there only the end is waited for.
        if self._names.ros == "ros1" and not handle.accepted.is_set() and lasted > self._t.accept:
            return self._give_up(goal, now, f"not accepted within {self._t.accept:g} s")
        if lasted > goal.limit:
            return self._give_up(goal, now, f"not done within {goal.limit:g} s")
        return None

    def _give_up(self, goal: Running, now: float, why: str) -> None:
        """A goal that went on later would move the fingers while somebody looks at them."""
        self._break_off(goal)
        self._fail(goal.kind, goal.width, now, why)

    def _break_off(self, goal: Running) -> None:
        with contextlib.suppress(BridgeError):
            goal.handle.cancel()
        self.stop()

    def _end(self, goal: Running) -> None:
        self._actions[goal.kind].forget(goal.handle.id)
        self._running = None

    def _succeed(self, goal: Running, now: float) -> None:
        self._note(f"{goal.kind} done", goal.width)
        self.counters["succeeded"] += 1
        self._failed, self._retries = None, 0
        self._held_since = now if goal.kind == "grasp" else None

    def _look_for_slip(self, now: float) -> None:
        if self._held_since is None or self._measured is None:
            return
        if self._held_width is None and now - self._held_since >= SETTLE:
            self._held_width = self._measured
        least = max(self.config.smallest, (self._held_width or 0.0) - self.config.slip)
        if self._measured < least:
            self._held_since = self._held_width = None
            self._fail("grasp", self._goal or 0.0, now, "the object was lost", True)

    def _empty(self, kind: Kind) -> bool:
        return kind == "grasp" and self._measured is not None and self._measured < self.config.smallest + MARGIN

    def _fail(self, kind: Kind, width: float, now: float, why: str, empty: bool = False) -> None:
        self._note(f"{kind} failed", width, why)
        self.counters["missed" if empty else "failed"] += 1
        if empty and self.config.missed == "go_on":
            return
        # Fingers that met nothing are closed by now: trying again is the policy's next opening and closing.
        self._failed = None if empty else (kind, width)
        self.fault = self._retries >= self.config.retries
        tried = f", after {self._retries} retries" if self._retries else ""
        self.problem = f"{kind} to {1e3 * width:.0f} mm: {why}{tried}"

    def _note(self, what: str, width: float, text: str = "") -> None:
        self.events.append(GripperEvent(self._clock.now(), what, width, text))
