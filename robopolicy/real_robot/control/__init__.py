"""Control logic without input or output: clocks, plan, state machine, observations, checks, and one tick of the
loop."""
