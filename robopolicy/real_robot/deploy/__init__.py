"""A policy on the robot: observations in its terms, its chunks as dated poses, and who asks it when."""
