"""Stage 8: an external force slows the arm down; a larger one holds it."""

from __future__ import annotations

from robopolicy.real_robot.limits import SafetyLimits

SLOWED = 0.5  # share of the speed that remains


def judge(force: float, limits: SafetyLimits) -> tuple[float, str | None]:
    """Share of the speed (1 or 0.5) and why to hold, for an external force in newtons."""
    if force > limits.force_hold:
        return SLOWED, f"external force {force:.1f} N, limit {limits.force_hold:.0f} N"
    return (SLOWED if force > limits.force_slow else 1.0), None
