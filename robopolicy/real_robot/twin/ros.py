"""The twin on a bus: the robot's topics, services and actions, and the twin's own ``/twin/*`` services.

Source: names and behaviour of franka_ros and franka_gripper, and of franka_ros2 where the bus speaks ROS 2.
Messages are heard in whichever thread brings them and take effect at the next tick; everything published comes from the
thread that calls ``Twin.step``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from robopolicy.core.errors import ConfigError, ServiceFailed
from robopolicy.real_robot.twin.arm import Mode
from robopolicy.real_robot.twin.hand_actions import HandActions
from robopolicy.real_robot.twin.messages import StateMessages, of_column_major, pose_message, pose_of_message
from robopolicy.real_robot.twin.twin_services import serve_twin
from robopolicy.real_robot.wire.actions import Goal
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.messages import Message

if TYPE_CHECKING:
    from robopolicy.real_robot.twin.twin import Twin

NODE, CONTROLLER, INTRUDER = "/franka_control", "/cartesian_controller", "/intruder"
OBJECTS, TRACKER = "/twin/objects", "/twin_tracker"
GRIPPER_RATE, STATUS_RATE, POLL_RATE, INTRUDER_RATE = 30.0, 5.0, 100.0, 10.0


class RosFace:
    """``Twin.bind`` makes it."""

    def __init__(self, twin: Twin, bus: Bus) -> None:
        self.twin, self.bus = twin, bus
        self.names = twin.config.interface()
        if bus.flavour != self.names.ros:
            raise ConfigError(f"the bus speaks {bus.flavour}, the twin {self.names.ros}; set the twin's --ros")
        self.messages = StateMessages(twin.arm, self.names)
        self.recovery_works, self.state_fault = True, ""
        self.advance: Callable[[int], None] = twin.step
        self._last: dict[str, Message] = {}
        self._recoveries: list[Goal] = []
        self._here = False
        self._join()
        self._advertise_others()
        self.hand = HandActions(self)
        if self.names.recovery is not None:
            server = bus.serve_action(self.names.recovery, "franka_msgs/ErrorRecovery", self._recovery, owner=NODE)
            twin.schedule.every("recovery status", STATUS_RATE, lambda: self._alive(server.publish_status))
        self._serve_settings()
        serve_twin(self)
        schedule = twin.schedule
        self.set_state_rate(twin.config.state_rate)
        schedule.every("fingers", GRIPPER_RATE, self._publish_fingers)
        schedule.every("goals", POLL_RATE, self._poll)
        if self.names.cameras:
            schedule.every("cameras", twin.config.camera_rate, self._publish_pictures)

    # -- what is published ---------------------------------------------------------------------------------------------

    def _topics(self) -> dict[str, str]:
        """Topics of the control node; the last one is that which ROS 1 and ROS 2 do not share."""
        names = self.names
        prefix = names.state.rsplit("/", 1)[0]
        extra, kind = ("F_ext", "WrenchStamped") if names.ros == "ros1" else ("current_pose", "PoseStamped")
        return {
            names.state: names.state_type,
            names.joint_states: "sensor_msgs/JointState",
            f"{prefix}/{extra}": f"geometry_msgs/{kind}",
        }

    def _join(self) -> None:
        """The control node enters the graph, or leaves it when it has crashed."""
        here = not self.twin.arm.crashed
        if here == self._here:
            return
        self._here = here
        for topic, kind in self._topics().items():
            if here:
                self.bus.advertise(topic, kind, NODE)
            else:
                self.bus.unadvertise(topic, NODE)
        if here:
            command, kind = self.names.command, "geometry_msgs/PoseStamped"
            self._deaf = self.bus.subscribe(command, kind, self._command, CONTROLLER)
        else:
            self._deaf()

    def _advertise_others(self) -> None:
        names = self.names
        self.bus.advertise(names.gripper_states, "sensor_msgs/JointState", names.gripper)
        for name, topic in names.cameras.items():
            self.bus.advertise(topic, "sensor_msgs/CompressedImage", f"/cam_{name}")
        if self.twin.scene.objects()[0]:
            self.bus.advertise(OBJECTS, "sensor_msgs/JointState", TRACKER)

    def set_state_rate(self, rate: float) -> None:
        """State messages a second from now on."""
        self.twin.schedule.every("state", rate, self._publish_state)

    def _alive(self, action: Callable[[], None]) -> None:
        if not self.twin.arm.crashed:
            action()

    def _publish_state(self) -> None:
        if not self._here or self.twin.arm.crashed or self.state_fault == "stop":
            return
        wall, names, make = self.twin.clock.wall(), self.names, self.messages
        if self.state_fault != "freeze" or not self._last:
            self._last = {names.state: make.state(wall, self.twin.time), names.joint_states: make.joint_state(wall)}
            extra = list(self._topics())[-1]
            if names.ros == "ros1":
                self._last[extra] = make.external_wrench(wall)
            else:
                self._last[extra] = {"header": make.header(wall), "pose": pose_message(self.twin.arm.pose)}
        for topic, message in self._last.items():
            self.bus.publish(topic, message, NODE)
        self._publish_objects(wall)

    def _publish_objects(self, wall: float) -> None:
        """What a tracker of objects would say, named and stamped as the state is: the scene's environment state.

        ``sensor_msgs/JointState``, as no message of ROS has names, numbers and a stamp and nothing else.
        """
        names, values = self.twin.scene.objects()
        if names:
            message = {"name": list(names), "position": values, "velocity": [], "effort": []}
            self.bus.publish(OBJECTS, {"header": self.messages.header(wall), **message}, TRACKER)

    def _publish_fingers(self) -> None:
        message = self.messages.finger_state(self.twin.clock.wall(), self.twin.hand.reading)
        self.bus.publish(self.names.gripper_states, message, self.names.gripper)

    def _publish_pictures(self) -> None:
        for name, topic in self.names.cameras.items():
            wall, made = self.twin.clock.wall(), self.twin.cameras.compressed(name)
            if made is not None:
                stamp = self.messages.header(wall, f"cam_{name}_color_optical_frame")
                self.bus.publish(topic, {"header": stamp, "format": made[0], "data": made[1]}, f"/cam_{name}")

    # -- what is heard -------------------------------------------------------------------------------------------------

    def _command(self, message: Message) -> None:
        """Neither stamp nor frame is looked at, as on the robot."""
        pose = pose_of_message(message["pose"])
        self.twin.post(lambda: self.twin.aim(pose))

    def _recovery(self, goal: Goal) -> None:
        self.twin.post(lambda: self._begin_recovery(goal))

    def _begin_recovery(self, goal: Goal) -> None:
        if self.twin.arm.crashed:
            return  # nobody is there to answer
        goal.accept()
        why = self.twin.arm.recover() if self.recovery_works else "automatic error recovery failed"
        if why:
            goal.abort(text=why)
        else:
            self._recoveries.append(goal)

    def _poll(self) -> None:
        self._join()
        self.hand.poll()
        waiting, self._recoveries = self._recoveries, []
        for goal in waiting:
            if self.twin.arm.recovered:
                goal.succeed()
            elif self.twin.arm.mode is Mode.RECOVERING:
                self._recoveries.append(goal)
            else:
                goal.abort(text="stopped again before it was over")

    def forget_goals(self) -> None:
        """The scene was reset: whoever waits is told that it is off."""
        for goal in self._recoveries:
            goal.abort(text="the twin was reset")
        self._recoveries = []
        self.hand.forget()

    def intrude(self, on: bool) -> None:
        """Begin or end a second node that publishes targets: where the arm is, ten times a second."""
        topic, schedule = self.names.command, self.twin.schedule
        if not on:
            schedule.cancel("intruder")
            self.bus.unadvertise(topic, INTRUDER)
            return
        self.bus.advertise(topic, "geometry_msgs/PoseStamped", INTRUDER)

        def publish() -> None:
            stamp = self.messages.header(self.twin.clock.wall())
            self.bus.publish(topic, {"header": stamp, "pose": pose_message(self.twin.arm.pose)}, INTRUDER)

        schedule.every("intruder", INTRUDER_RATE, publish)

    # -- settings of the arm -------------------------------------------------------------------------------------------

    def _serve_settings(self) -> None:
        prefix = self.names.services
        ros1 = self.names.ros == "ros1"
        table: dict[str, tuple[str, Callable[[Message], None]]] = {
            "set_force_torque_collision_behavior": ("SetForceTorqueCollisionBehavior", self._set_collision),
            "set_full_collision_behavior": ("SetFullCollisionBehavior", self._set_collision),
            "set_load": ("SetLoad", _noted),
        }
        if ros1:
            table |= {
                "set_EE_frame": ("SetEEFrame", lambda r: self._set_tool(r["NE_T_EE"])),
                "set_K_frame": ("SetKFrame", _noted),
                "set_joint_impedance": ("SetJointImpedance", _noted),
                "set_cartesian_impedance": ("SetCartesianImpedance", _noted),
            }
        else:
            table |= {
                "set_tcp_frame": ("SetTCPFrame", lambda r: self._set_tool(r["transformation"], whole=True)),
                "set_stiffness_frame": ("SetStiffnessFrame", _noted),
                "set_joint_stiffness": ("SetJointStiffness", _noted),
                "set_cartesian_stiffness": ("SetCartesianStiffness", _noted),
            }
        for name, (kind, change) in table.items():
            self.bus.serve(f"{prefix}/{name}", f"franka_msgs/{kind}", self._answering(name, change), NODE)
        if ros1:
            for name in ("connect", "disconnect"):
                self.bus.serve(f"{prefix}/{name}", "std_srvs/Trigger", self._trigger, NODE)

    def _answering(self, name: str, change: Callable[[Message], None]) -> Callable[[Message], Message]:
        def handle(request: Message) -> Message:
            if self.twin.arm.crashed:
                raise ServiceFailed(f"{self.names.services}/{name}: the node is gone")
            try:
                with self.twin.lock:
                    change(request)
            except ConfigError as e:
                return {"success": False, "error": str(e)}
            return {"success": True, "error": ""}

        return handle

    def _trigger(self, request: Message) -> Message:
        if self.twin.arm.crashed:
            raise ServiceFailed("the node is gone")
        return {"success": True, "message": ""}

    def _set_tool(self, numbers: list[float], whole: bool = False) -> None:
        from robopolicy.real_robot.kinematics import Kinematics, hand_on_flange

        matrix = of_column_major(numbers)
        self.twin.arm.set_tool(Kinematics(matrix if whole else hand_on_flange() @ matrix).tool)

    def _set_collision(self, request: Message) -> None:
        phase = "_nominal"
        torque = np.array(request[f"upper_torque_thresholds{phase}"])
        force = np.array(request[f"upper_force_thresholds{phase}"])
        if (torque <= 0).any() or (force <= 0).any():
            raise ConfigError("collision thresholds must be above 0")
        self.twin.arm.collision_torque, self.twin.arm.collision_force = torque, force


def _noted(request: Any) -> None:
    """Accepted, as on the robot; the twin has nothing that it changes."""
