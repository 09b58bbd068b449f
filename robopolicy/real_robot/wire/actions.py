"""Goals that take time, in both ROS forms: five topics in ROS 1 (actionlib), a call with feedback in ROS 2.

The server keeps no clock and no thread: whoever drives it (the twin's tick) answers each ``Goal`` when it is done.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

from robopolicy.core.errors import InvalidMessage
from robopolicy.real_robot.wire.messages import Message, conform, header, zeros
from robopolicy.real_robot.wire.schema import action_name

if TYPE_CHECKING:
    from robopolicy.real_robot.wire.bus import Bus


class GoalState(IntEnum):
    """actionlib's status codes."""

    PENDING = 0
    ACTIVE = 1
    PREEMPTED = 2
    SUCCEEDED = 3
    ABORTED = 4
    REJECTED = 5
    RECALLED = 8


# The same ends in action_msgs/GoalStatus of ROS 2 (4 succeeded, 5 canceled, 6 aborted); a rejected goal has none there.
ROS2_STATUS = {
    GoalState.PENDING: 1,
    GoalState.ACTIVE: 2,
    GoalState.SUCCEEDED: 4,
    GoalState.PREEMPTED: 5,
    GoalState.RECALLED: 5,
    GoalState.ABORTED: 6,
    GoalState.REJECTED: 6,
}
# Finished goals stay in the status list for a while, so that a slow client sees their end; actionlib does so for 5 s.
KEPT = 8


class Goal:
    """One goal: its values, its state, and the ways to answer it.  Answers after the end are ignored."""

    def __init__(self, server: ActionServer, goal_id: Message, values: Message) -> None:
        self._server, self.goal_id, self.values = server, goal_id, values
        self.state, self.text, self.cancel_requested = GoalState.PENDING, "", False
        self.on_feedback: Callable[[Message], None] | None = None
        self.on_end: Callable[[Goal, Message], None] | None = None

    @property
    def id(self) -> str:
        """The client's name for the goal."""
        return str(self.goal_id["id"])

    @property
    def done(self) -> bool:
        """Whether the goal has ended, either way."""
        return self.state not in (GoalState.PENDING, GoalState.ACTIVE)

    def accept(self) -> None:
        """The goal is being worked on."""
        if self.state is GoalState.PENDING:
            self.state = GoalState.ACTIVE
            self._server.publish_status()

    def feedback(self, values: Message) -> None:
        """Tell how far it is."""
        if not self.done:
            self._server.publish_part(self, "Feedback", values)

    def succeed(self, result: Message | None = None, text: str = "") -> None:
        """Done as asked."""
        self._end(GoalState.SUCCEEDED, result, text)

    def abort(self, result: Message | None = None, text: str = "") -> None:
        """Tried, and it did not work."""
        self._end(GoalState.ABORTED, result, text)

    def reject(self, text: str = "") -> None:
        """Never begun."""
        self._end(GoalState.REJECTED, None, text)

    def cancelled(self, result: Message | None = None, text: str = "") -> None:
        """Given up because the client asked for it."""
        begun = self.state is GoalState.ACTIVE
        self._end(GoalState.PREEMPTED if begun else GoalState.RECALLED, result, text)

    def _end(self, state: GoalState, result: Message | None, text: str) -> None:
        if not self.done:
            self.state, self.text = state, text
            self._server.publish_part(self, "Result", result)


class ActionServer:
    """An action on a bus; ``Bus.serve_action`` makes it.

    ROS 1: hears ``<name>/goal`` and ``<name>/cancel``, publishes ``status``, ``feedback`` and ``result``;
    ``publish_status`` wants to be called a few times a second, as actionlib does at 5 Hz.
    """

    def __init__(
        self,
        bus: Bus,
        name: str,
        type_name: str,
        on_goal: Callable[[Goal], None],
        on_cancel: Callable[[Goal], None] | None,
        owner: str,
    ) -> None:
        self.name, self.type, self.owner = name, action_name(type_name), owner
        self._bus, self._on_goal, self._on_cancel = bus, on_goal, on_cancel
        self._goals: OrderedDict[str, Goal] = OrderedDict()
        self._lock = threading.RLock()
        self._as_topics = bus.flavour == "ros1"
        if self._as_topics:
            for part in ("Result", "Feedback"):
                bus.advertise(f"{name}/{part.lower()}", f"{self.type}Action{part}", owner)
            bus.advertise(f"{name}/status", "actionlib_msgs/GoalStatusArray", owner, latch=True)
            bus.subscribe(f"{name}/goal", f"{self.type}ActionGoal", self._goal_message, owner)
            bus.subscribe(f"{name}/cancel", "actionlib_msgs/GoalID", self._cancel_message, owner)
            self.publish_status()

    def submit(
        self,
        goal_id: str,
        values: Message,
        on_feedback: Callable[[Message], None] | None = None,
        on_end: Callable[[Goal, Message], None] | None = None,
    ) -> Goal:
        """Start a goal by call (the ROS 2 way); raises ``InvalidMessage``."""
        stamped = zeros("actionlib_msgs/GoalID", self._bus.flavour) | {"id": goal_id}
        return self._begin(stamped, conform(f"{self.type}Goal", values, self._bus.flavour), on_feedback, on_end)

    def cancel(self, goal_id: str = "") -> None:
        """Ask for the end of one goal, or of all (empty name)."""
        with self._lock:
            chosen = [g for g in self._goals.values() if not g.done and goal_id in ("", g.id)]
        for goal in chosen:
            goal.cancel_requested = True
            if self._on_cancel is not None:
                self._on_cancel(goal)

    def _goal_message(self, message: Message) -> None:
        self._begin(message["goal_id"], message["goal"], None, None)

    def _cancel_message(self, message: Message) -> None:
        self.cancel(message["id"])

    def _begin(
        self,
        goal_id: Message,
        values: Message,
        on_feedback: Callable[[Message], None] | None,
        on_end: Callable[[Goal, Message], None] | None,
    ) -> Goal:
        with self._lock:
            name = goal_id["id"] or f"{self.name}-{len(self._goals)}-{self._bus.clock.wall():.9f}"
            if name in self._goals and not self._goals[name].done:
                raise InvalidMessage(f"{self.name}: goal '{name[:80]}' is already being worked on")
            goal = Goal(self, {**goal_id, "id": name}, values)
            goal.on_feedback, goal.on_end = on_feedback, on_end
            self._goals[name] = goal
            finished = [k for k, g in self._goals.items() if g.done]
            for old in finished[:-KEPT]:
                del self._goals[old]
        self._on_goal(goal)
        return goal

    def publish_status(self) -> None:
        """Publish the list of goals (ROS 1)."""
        if not self._as_topics:
            return
        with self._lock:
            statuses = [self._status(g) for g in self._goals.values()]
        now = header(self._bus.clock.wall(), "", self._bus.flavour)
        self._bus.publish(f"{self.name}/status", {"header": now, "status_list": statuses}, self.owner)

    def publish_part(self, goal: Goal, part: str, values: Message | None) -> None:
        """Send ``Feedback`` or ``Result`` of a goal to whoever waits for it; missing values are zeros."""
        flavour = self._bus.flavour
        kind = f"{self.type}{part}"
        checked = zeros(kind, flavour) if values is None else conform(kind, values, flavour)
        if self._as_topics:
            now = header(self._bus.clock.wall(), "", flavour)
            message = {"header": now, "status": self._status(goal), part.lower(): checked}
            self._bus.publish(f"{self.name}/{part.lower()}", message, self.owner)
            self.publish_status()
        if part == "Feedback" and goal.on_feedback is not None:
            goal.on_feedback(checked)
        if part == "Result" and goal.on_end is not None:
            goal.on_end(goal, checked)

    @staticmethod
    def _status(goal: Goal) -> Message:
        return {"goal_id": goal.goal_id, "status": int(goal.state), "text": goal.text}
