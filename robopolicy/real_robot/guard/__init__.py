"""The guard on the robot's computer: Python 3.8, the standard library and ROS only, so nothing is imported here."""
