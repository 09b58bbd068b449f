"""The field table: every message, service and action that crosses the wire, written once.

One string a type: ``kind name`` separated by ``;``.  ``1:`` and ``2:`` in front of a field mean ROS 1 only and ROS 2
only; ``?`` behind a name means that a sender may leave the field out (actionlib clients do).  ``NAME=value`` is a
constant: it is not sent, but ROS 1 counts it in a type's checksum.

Sources: common_msgs and std_msgs of ROS; franka_ros (develop, checksum of FrankaState 431567d5df6caf4e4dd7385f25cb71ee,
which a test recomputes from this table); franka_ros2 (humble, January 2024).  Facts only.
"""

from __future__ import annotations

_ERRORS = [
    "joint_position_limits_violation",
    "cartesian_position_limits_violation",
    "self_collision_avoidance_violation",
    "joint_velocity_violation",
    "cartesian_velocity_violation",
    "force_control_safety_violation",
    "joint_reflex",
    "cartesian_reflex",
    "max_goal_pose_deviation_violation",
    "max_path_pose_deviation_violation",
    "cartesian_velocity_profile_safety_violation",
    "joint_position_motion_generator_start_pose_invalid",
    "joint_motion_generator_position_limits_violation",
    "joint_motion_generator_velocity_limits_violation",
    "joint_motion_generator_velocity_discontinuity",
    "joint_motion_generator_acceleration_discontinuity",
    "cartesian_position_motion_generator_start_pose_invalid",
    "cartesian_motion_generator_elbow_limit_violation",
    "cartesian_motion_generator_velocity_limits_violation",
    "cartesian_motion_generator_velocity_discontinuity",
    "cartesian_motion_generator_acceleration_discontinuity",
    "cartesian_motion_generator_elbow_sign_inconsistent",
    "cartesian_motion_generator_start_elbow_invalid",
    "cartesian_motion_generator_joint_position_limits_violation",
    "cartesian_motion_generator_joint_velocity_limits_violation",
    "cartesian_motion_generator_joint_velocity_discontinuity",
    "cartesian_motion_generator_joint_acceleration_discontinuity",
    "cartesian_position_motion_generator_invalid_frame",
    "force_controller_desired_force_tolerance_violation",
    "controller_torque_discontinuity",
    "start_elbow_sign_inconsistent",
    "communication_constraints_violation",
    "power_limit_violation",
    "joint_p2p_insufficient_torque_for_planning",
    "tau_j_range_violation",
    "instability_detected",
]
# The ROS 2 message of January 2024 ends with instability_detected; ROS 1 has five more.
_ERRORS_ROS1 = [
    "joint_move_in_wrong_direction",
    "cartesian_spline_motion_generator_violation",
    "joint_via_motion_generator_planning_joint_limit_violation",
    "base_acceleration_initialization_timeout",
    "base_acceleration_invalid_reading",
]
_MODES = ["OTHER", "IDLE", "MOVE", "GUIDING", "REFLEX", "USER_STOPPED", "AUTOMATIC_ERROR_RECOVERY"]
_ROBOT_MODE = "; ".join(f"uint8 ROBOT_MODE_{name}={i}" for i, name in enumerate(_MODES)) + "; uint8 robot_mode"
_GOAL_STATES = [
    "PENDING",
    "ACTIVE",
    "PREEMPTED",
    "SUCCEEDED",
    "ABORTED",
    "REJECTED",
    "PREEMPTING",
    "RECALLING",
    "RECALLED",
    "LOST",
]

MESSAGES: dict[str, str] = {
    "std_msgs/Header": "1:uint32 seq?; time stamp; string frame_id",
    "std_msgs/String": "string data",
    "std_msgs/Bool": "bool data",
    "std_msgs/Int32": "int32 data",
    "std_msgs/Float64": "float64 data",
    "std_msgs/Empty": "",
    "geometry_msgs/Point": "float64 x; float64 y; float64 z",
    "geometry_msgs/Vector3": "float64 x; float64 y; float64 z",
    "geometry_msgs/Quaternion": "float64 x; float64 y; float64 z; float64 w",
    "geometry_msgs/Pose": "Point position; Quaternion orientation",
    "geometry_msgs/PoseStamped": "Header header; Pose pose",
    "geometry_msgs/Twist": "Vector3 linear; Vector3 angular",
    "geometry_msgs/TwistStamped": "Header header; Twist twist",
    "geometry_msgs/Accel": "Vector3 linear; Vector3 angular",
    "geometry_msgs/AccelStamped": "Header header; Accel accel",
    "geometry_msgs/Wrench": "Vector3 force; Vector3 torque",
    "geometry_msgs/WrenchStamped": "Header header; Wrench wrench",
    "geometry_msgs/Inertia": "float64 m; geometry_msgs/Vector3 com; float64 ixx; float64 ixy; float64 ixz; "
    "float64 iyy; float64 iyz; float64 izz",
    "geometry_msgs/InertiaStamped": "Header header; Inertia inertia",
    "sensor_msgs/JointState": "Header header; string[] name; float64[] position; float64[] velocity; float64[] effort",
    "sensor_msgs/CompressedImage": "Header header; string format; uint8[] data",
    "actionlib_msgs/GoalID": "time stamp?; string id?",
    "actionlib_msgs/GoalStatus": "GoalID goal_id; uint8 status; "
    + "; ".join(f"uint8 {name}={i}" for i, name in enumerate(_GOAL_STATES))
    + "; string text",
    "actionlib_msgs/GoalStatusArray": "Header header; GoalStatus[] status_list",
    "franka_msgs/Errors": "; ".join([f"bool {n}" for n in _ERRORS] + [f"1:bool {n}" for n in _ERRORS_ROS1]),
    "franka_msgs/FrankaState": (
        "std_msgs/Header header; float64[6] cartesian_collision; float64[6] cartesian_contact; float64[7] q; "
        "float64[7] q_d; float64[7] dq; float64[7] dq_d; float64[7] ddq_d; float64[7] theta; float64[7] dtheta; "
        "float64[7] tau_J; float64[7] dtau_J; float64[7] tau_J_d; float64[6] K_F_ext_hat_K; float64[2] elbow; "
        "float64[2] elbow_d; float64[2] elbow_c; float64[2] delbow_c; float64[2] ddelbow_c; "
        "float64[7] joint_collision; float64[7] joint_contact; float64[6] O_F_ext_hat_K; float64[6] O_dP_EE_d; "
        "float64[3] O_ddP_O; float64[6] O_dP_EE_c; float64[6] O_ddP_EE_c; float64[7] tau_ext_hat_filtered; "
        "float64 m_ee; float64[3] F_x_Cee; float64[9] I_ee; float64 m_load; float64[3] F_x_Cload; "
        "float64[9] I_load; float64 m_total; float64[3] F_x_Ctotal; float64[9] I_total; float64[16] O_T_EE; "
        "float64[16] O_T_EE_d; float64[16] O_T_EE_c; float64[16] F_T_EE; float64[16] F_T_NE; float64[16] NE_T_EE; "
        "float64[16] EE_T_K; float64 time; float64 control_command_success_rate; "
        + _ROBOT_MODE
        + "; franka_msgs/Errors current_errors; franka_msgs/Errors last_motion_errors"
    ),
    "franka_msgs/CollisionIndicators": (
        "geometry_msgs/Vector3 is_cartesian_linear_collision; geometry_msgs/Vector3 is_cartesian_angular_collision; "
        "geometry_msgs/Vector3 is_cartesian_linear_contact; geometry_msgs/Vector3 is_cartesian_angular_contact; "
        "float64[7] is_joint_collision; float64[7] is_joint_contact"
    ),
    "franka_msgs/Elbow": "float64[2] position; float64[2] desired_position; float64[2] commanded_position; "
    "float64[2] commanded_velocity; float64[2] commanded_acceleration",
    "franka_msgs/FrankaRobotState": (
        "std_msgs/Header header; CollisionIndicators collision_indicators; "
        "sensor_msgs/JointState measured_joint_state; sensor_msgs/JointState desired_joint_state; "
        "sensor_msgs/JointState measured_joint_motor_state; float64[7] ddq_d; float64[7] dtau_j; "
        "sensor_msgs/JointState tau_ext_hat_filtered; Elbow elbow; geometry_msgs/WrenchStamped k_f_ext_hat_k; "
        "geometry_msgs/WrenchStamped o_f_ext_hat_k; geometry_msgs/InertiaStamped inertia_ee; "
        "geometry_msgs/InertiaStamped inertia_load; geometry_msgs/InertiaStamped inertia_total; "
        "geometry_msgs/PoseStamped o_t_ee; geometry_msgs/PoseStamped o_t_ee_d; geometry_msgs/PoseStamped o_t_ee_c; "
        "geometry_msgs/PoseStamped f_t_ee; geometry_msgs/PoseStamped ee_t_k; geometry_msgs/TwistStamped o_dp_ee_d; "
        "geometry_msgs/TwistStamped o_dp_ee_c; geometry_msgs/AccelStamped o_ddp_ee_c; float64 time; "
        "float64 control_command_success_rate; "
        + _ROBOT_MODE
        + "; franka_msgs/Errors current_errors; franka_msgs/Errors last_motion_errors"
    ),
    "franka_msgs/GraspEpsilon": "float64 inner; float64 outer",
    "franka_gripper/GraspEpsilon": "float64 inner; float64 outer",
    "control_msgs/GripperCommand": "float64 position; float64 max_effort",
}

_ANSWER = "bool success; string error"
_COLLISION = "float64[7] {0}_torque_thresholds_{1}"
_FORCES = "float64[6] {0}_force_thresholds_{1}"
_NOMINAL = "; ".join(t.format(side, "nominal") for t in (_COLLISION, _FORCES) for side in ("lower", "upper"))
_FULL = "; ".join(
    t.format(side, phase)
    for t in (_COLLISION, _FORCES)
    for phase in ("acceleration", "nominal")
    for side in ("lower", "upper")
)

# name -> (request, response)
SERVICES: dict[str, tuple[str, str]] = {
    "std_srvs/Empty": ("", ""),
    "std_srvs/Trigger": ("", "bool success; string message"),
    "std_srvs/SetBool": ("bool data", "bool success; string message"),
    "franka_msgs/SetCartesianImpedance": ("float64[6] cartesian_stiffness", _ANSWER),
    "franka_msgs/SetJointImpedance": ("float64[7] joint_stiffness", _ANSWER),
    "franka_msgs/SetEEFrame": ("float64[16] NE_T_EE", _ANSWER),
    "franka_msgs/SetKFrame": ("float64[16] EE_T_K", _ANSWER),
    "franka_msgs/SetForceTorqueCollisionBehavior": (_NOMINAL, _ANSWER),
    "franka_msgs/SetFullCollisionBehavior": (_FULL, _ANSWER),
    "franka_msgs/SetLoad": (
        "float64 mass; 1:float64[3] F_x_center_load; 2:float64[3] center_of_mass; float64[9] load_inertia",
        _ANSWER,
    ),
    "franka_msgs/SetCartesianStiffness": ("float64[6] cartesian_stiffness", _ANSWER),
    "franka_msgs/SetJointStiffness": ("float64[7] joint_stiffness", _ANSWER),
    "franka_msgs/SetTCPFrame": ("float64[16] transformation", _ANSWER),
    "franka_msgs/SetStiffnessFrame": ("float64[16] transformation", _ANSWER),
    "rosapi/GetTime": ("", "time time"),
    "rosapi/Topics": ("", "string[] topics; string[] types"),
    "rosapi/TopicType": ("string topic", "string type"),
    "rosapi/Publishers": ("string topic", "string[] publishers"),
    "rosapi/Subscribers": ("string topic", "string[] subscribers"),
    "rosapi/Services": ("", "string[] services"),
    "rosapi/ServiceType": ("string service", "string type"),
    "rosapi/Nodes": ("", "string[] nodes"),
    # Of this project: the twin's lock-step and fault ports (arguments as JSON text where they vary).
    "robopolicy_msgs/Step": ("int32 ticks", "bool success; string message; float64 time"),
    "robopolicy_msgs/Text": ("string data", "bool success; string message"),
}

# name -> (goal, result, feedback)
ACTIONS: dict[str, tuple[str, str, str]] = {
    "franka_msgs/ErrorRecovery": ("", "", ""),
    "franka_gripper/Homing": ("", _ANSWER, ""),
    "franka_gripper/Move": ("float64 width; float64 speed", _ANSWER, ""),
    "franka_gripper/Grasp": ("float64 width; GraspEpsilon epsilon; float64 speed; float64 force", _ANSWER, ""),
    "franka_gripper/Stop": ("", _ANSWER, ""),
    "franka_msgs/Homing": ("", _ANSWER, "float64 current_width"),
    "franka_msgs/Move": ("float64 width; float64 speed", _ANSWER, "float64 current_width"),
    "franka_msgs/Grasp": (
        "float64 width; GraspEpsilon epsilon; float64 speed; float64 force",
        _ANSWER,
        "float64 current_width",
    ),
    "control_msgs/GripperCommand": (
        "GripperCommand command",
        "float64 position; float64 effort; bool stalled; bool reached_goal",
        "float64 position; float64 effort; bool stalled; bool reached_goal",
    ),
}
