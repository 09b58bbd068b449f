"""Goals sent over the bridge: topics of actionlib on ROS 1, action operations on ROS 2, one face for both."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from robopolicy.core.errors import LinkDown, ServiceFailed
from robopolicy.real_robot.wire.actions import GoalState
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.messages import Message, conform, header, zeros
from robopolicy.real_robot.wire.schema import action_name, spelled
from robopolicy.real_robot.wire.slot import Sample

# action_msgs/GoalStatus of ROS 2 -> actionlib's code.
_FROM_ROS2 = {4: GoalState.SUCCEEDED, 5: GoalState.PREEMPTED, 6: GoalState.ABORTED}


@dataclass(frozen=True)
class Outcome:
    """How a goal ended: its state, the result message (empty when there is none), and the server's words."""

    state: GoalState
    result: Message
    text: str

    @property
    def succeeded(self) -> bool:
        """Whether it was done as asked."""
        return self.state is GoalState.SUCCEEDED


class GoalHandle:
    """One goal under way."""

    def __init__(self, client: ActionClient, name: str) -> None:
        self._client, self.id = client, name
        self.accepted = threading.Event()
        self.outcome: Future[Outcome] = Future()
        self.feedback: Message | None = None
        self.epoch = client.bridge.epoch

    def result(self, timeout: float) -> Outcome:
        """Wait for the end; raises ``ServiceFailed`` after ``timeout`` seconds, ``LinkDown`` if the link was lost."""
        try:
            return self.outcome.result(timeout)
        except FutureTimeout:
            raise ServiceFailed(f"{self._client.name}: the goal has not ended within {timeout} s") from None
        finally:
            self._client.forget(self.id)

    def wait_accepted(self, timeout: float) -> None:
        """Wait until the server works on it (ROS 1; a ROS 2 bridge does not tell, so there it returns at once)."""
        if not self._client.as_topics:
            return
        if not self.accepted.wait(timeout):
            raise ServiceFailed(f"{self._client.name}: the goal was not accepted within {timeout} s")

    def cancel(self) -> None:
        """Ask for the end; the outcome tells whether it came."""
        self._client.cancel(self.id)


class ActionClient:
    """The client of one action; make it after ``connect`` (the flavour decides how goals travel)."""

    def __init__(self, bridge: RosbridgeClient, name: str, type_name: str) -> None:
        self.bridge, self.name, self.type = bridge, name, action_name(type_name)
        self.as_topics = bridge.flavour == "ros1"
        self._goals: dict[str, GoalHandle] = {}
        self._ids = itertools.count(1)
        # Unique over restarts: a server still knows the goals of a client that died.
        self._prefix = f"{name}-{uuid.uuid4().hex[:8]}"
        if self.as_topics:
            bridge.advertise(f"{name}/goal", f"{self.type}ActionGoal")
            bridge.advertise(f"{name}/cancel", "actionlib_msgs/GoalID")
            for part, kind, heard in (
                ("status", "actionlib_msgs/GoalStatusArray", self._status),
                ("feedback", f"{self.type}ActionFeedback", self._feedback),
                ("result", f"{self.type}ActionResult", self._result),
            ):
                bridge.subscribe(f"{name}/{part}", kind, ordered=False, on_sample=heard)

    def send(self, goal: Message | None = None, on_feedback: Callable[[Message], None] | None = None) -> GoalHandle:
        """Send a goal; raises ``InvalidMessage`` and ``LinkDown``."""
        flavour = self.bridge.flavour
        values = conform(f"{self.type}Goal", goal or {}, flavour)
        handle = GoalHandle(self, f"{self._prefix}-{next(self._ids)}")
        self._goals[handle.id] = handle
        if self.as_topics:
            now = header(self.bridge.clock.wall(), "", flavour)
            goal_id = {"stamp": now["stamp"], "id": handle.id}
            self.bridge.publish(f"{self.name}/goal", {"header": now, "goal_id": goal_id, "goal": values})
            return handle

        def fed(told: Any) -> None:
            handle.feedback = conform(f"{self.type}Feedback", told, flavour, extra=True)
            if on_feedback is not None:
                on_feedback(handle.feedback)

        frame = {"op": "send_action_goal", "action": self.name, "action_type": spelled(self.type, flavour, "action")}
        self.bridge.begin(handle.id, {**frame, "args": values, "feedback": True}, fed).add_done_callback(
            lambda future: self._ended(handle, future)
        )
        return handle

    def cancel(self, goal_id: str) -> None:
        """Ask for the end of one goal."""
        if self.as_topics:
            goal = zeros("actionlib_msgs/GoalID", "ros1") | {"id": goal_id}
            self.bridge.publish(f"{self.name}/cancel", goal)
        else:
            self.bridge.tell({"op": "cancel_action_goal", "action": self.name, "id": goal_id})

    def forget(self, goal_id: str) -> None:
        """Nobody waits for that goal any more."""
        self._goals.pop(goal_id, None)

    def _ended(self, handle: GoalHandle, future: Future[Any]) -> None:
        """ROS 2: the reply of the bridge, or the loss of the link."""
        error = future.exception()
        if error is not None:
            handle.outcome.set_exception(error)
            return
        frame = future.result()
        values, status = frame.get("values"), frame.get("status")
        text = values if isinstance(values, str) else ""
        state = _FROM_ROS2.get(status, GoalState.ABORTED) if isinstance(status, int) else GoalState.ABORTED
        handle.outcome.set_result(Outcome(state, values if isinstance(values, dict) else {}, text))

    def _status(self, sample: Sample) -> None:
        for status in sample.message["status_list"]:
            handle = self._goals.get(status["goal_id"]["id"])
            if handle is not None and status["status"] != GoalState.PENDING:
                handle.accepted.set()

    def _feedback(self, sample: Sample) -> None:
        handle = self._goals.get(sample.message["status"]["goal_id"]["id"])
        if handle is not None:
            handle.accepted.set()
            handle.feedback = sample.message["feedback"]

    def _result(self, sample: Sample) -> None:
        status = sample.message["status"]
        handle = self._goals.get(status["goal_id"]["id"])
        if handle is None or handle.outcome.done():
            return
        handle.accepted.set()
        known = status["status"] in set(GoalState)
        state = GoalState(status["status"]) if known else GoalState.ABORTED
        handle.outcome.set_result(Outcome(state, sample.message["result"], status["text"]))

    def link_lost(self) -> None:
        """ROS 1: end what waits, since its result may have passed unheard; the driver calls this on a lost link."""
        for handle in list(self._goals.values()):
            if not handle.outcome.done():
                handle.outcome.set_exception(LinkDown(f"{self.name}: the link was lost while a goal was under way"))
