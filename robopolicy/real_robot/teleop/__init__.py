"""A human's hand on the arm: devices, from their deltas to a setpoint, and who is in command."""
