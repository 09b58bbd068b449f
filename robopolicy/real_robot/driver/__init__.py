"""The driver of a Franka behind rosbridge: a core that ticks, a process around it, and the face that users hold."""
