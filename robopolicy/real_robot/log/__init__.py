"""The log of a run on the arm: all that the control loop was given and decided, written so that it can be replayed."""
