"""The safety filter: one file a stage, from a wished setpoint to the pose that may be published."""
