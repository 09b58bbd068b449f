"""A Franka in MuJoCo that behaves on ROS as the arm does: same law, same topics, same faults."""
