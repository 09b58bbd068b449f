"""The hand's actions: homing, move, grasp, stop and GripperCommand, as franka_gripper serves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from robopolicy.core.errors import ServiceFailed
from robopolicy.real_robot.twin.hand import Job
from robopolicy.real_robot.wire.actions import Goal
from robopolicy.real_robot.wire.messages import Message
from robopolicy.sim.panda_model import WIDTH_MAX

if TYPE_CHECKING:
    from robopolicy.real_robot.twin.ros import RosFace

STATUS_RATE = 5.0
SPEED = 0.1  # m/s, the node's default
EPSILON = 0.005  # m, the node's default


class HandActions:
    """Turns goals into jobs of the hand and answers them when the job is done."""

    def __init__(self, face: RosFace) -> None:
        self._face, self._hand = face, face.twin.hand
        self._running: list[tuple[Goal, Job]] = []
        names, bus = face.names, face.bus
        package = names.gripper_package
        starts: dict[str, tuple[str, Callable[[Message], Job]]] = {
            "homing": (f"{package}/Homing", lambda g: self._hand.homing()),
            "move": (f"{package}/Move", lambda g: self._hand.move(g["width"], g["speed"])),
            "grasp": (f"{package}/Grasp", self._grasp),
            "gripper_action": ("control_msgs/GripperCommand", self._command),
        }
        self._servers = [
            bus.serve_action(f"{names.gripper}/{name}", kind, self._starter(start), self._cancel, names.gripper)
            for name, (kind, start) in starts.items()
        ]
        if names.ros == "ros1":
            self._servers.append(
                bus.serve_action(f"{names.gripper}/stop", f"{package}/Stop", self._stop, None, names.gripper)
            )
        else:
            bus.serve(f"{names.gripper}/stop", "std_srvs/Trigger", self._stop_service, names.gripper)
        face.twin.schedule.every("hand status", STATUS_RATE, self._status)

    def _status(self) -> None:
        for server in self._servers:
            server.publish_status()

    def _grasp(self, goal: Message) -> Job:
        epsilon = goal["epsilon"]
        return self._hand.grasp(goal["width"], goal["speed"], goal["force"], epsilon["inner"], epsilon["outer"])

    def _command(self, goal: Message) -> Job:
        """``position`` is that of one finger; opening is a move, closing a grasp."""
        width, effort = 2 * goal["command"]["position"], goal["command"]["max_effort"]
        if not 0 <= width <= WIDTH_MAX:
            job = Job("move", width)
            job.end(f"the width {width:.4f} m is not within 0 to {WIDTH_MAX} m")
            return job
        if width >= self._hand.reading or effort <= 0:
            return self._hand.move(width, SPEED)
        return self._hand.grasp(width, SPEED, effort, EPSILON, EPSILON)

    def _starter(self, start: Callable[[Message], Job]) -> Callable[[Goal], None]:
        def begin(goal: Goal) -> None:
            goal.accept()
            self._running.append((goal, start(goal.values)))

        return lambda goal: self._face.twin.post(lambda: begin(goal))

    def _cancel(self, goal: Goal) -> None:
        self._face.twin.post(self._hand.stop)

    def _stop(self, goal: Goal) -> None:
        def now() -> None:
            self._hand.stop()
            goal.accept()
            goal.succeed({"success": True, "error": ""})

        self._face.twin.post(now)

    def _stop_service(self, request: Message) -> Message:
        if self._face.twin.arm.crashed:
            raise ServiceFailed("the node is gone")
        self._face.twin.post(self._hand.stop)
        return {"success": True, "message": ""}

    def poll(self) -> None:
        """Answer the goals whose jobs are done."""
        waiting, self._running = self._running, []
        for goal, job in waiting:
            if not job.done:
                self._running.append((goal, job))
            elif goal.cancel_requested:
                goal.cancelled(self._result(goal, job), job.error)
            elif job.success:
                goal.succeed(self._result(goal, job))
            else:
                goal.abort(self._result(goal, job), job.error)

    def forget(self) -> None:
        """The scene was reset."""
        for goal, job in self._running:
            goal.abort(self._result(goal, job), "the twin was reset")
        self._running = []

    def _result(self, goal: Goal, job: Job) -> Message:
        if "command" in goal.values:
            width = self._hand.width
            force = job.force if self._hand.grasped else 0.0
            return {"position": width / 2, "effort": force, "stalled": self._hand.grasped, "reached_goal": job.success}
        return {"success": job.success, "error": job.error}
