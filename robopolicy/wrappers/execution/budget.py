"""A sampling budget in milliseconds, for heads that may refine as long as there is time (energy heads).

What differs from stopping by the clock: the time of a step is measured once, before the run, and the number of steps
that fits is fixed, so that a chunk stays a function of observation and noise, and a log can be replayed.
When to use: ``ebt`` on a robot; for others ``num_inference_steps`` trades the same time for accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from robopolicy.core.errors import ConfigError

PROBES = (1, 5)  # numbers of steps that are timed
REPEATS = 7


@dataclass(frozen=True)
class Budget:
    """What was measured, ms, and the number of refinement ``steps`` that was set."""

    steps: int
    step_ms: float
    fixed_ms: float


def within_budget(
    policy: Any,
    observation: Mapping[str, Any],
    milliseconds: float,
    *,
    option: str = "max_steps",
    most: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Budget:
    """Set ``policy``'s sampler to as many steps as ``act`` can take within ``milliseconds``, at most ``most``.

    ``act`` on ``observation`` (one row) is timed with 1 and with 5 steps, the slowest of seven calls each; the rest is
    a straight line.  ``option``: what ``set_sampler`` calls the number.
    Raises ``ConfigError`` where not even one step fits, or the policy has no such option.
    """
    if not milliseconds > 0:
        raise ConfigError(f"the sampling budget must be > 0 ms, got {milliseconds}")
    few, many = (_slowest(policy, observation, option, steps, clock) for steps in PROBES)
    step = max((many - few) / (PROBES[1] - PROBES[0]), 1e-9)
    fixed = max(few - step, 0.0)
    steps = int((milliseconds - fixed) / step + 1e-9)
    if steps < 1:
        raise ConfigError(
            f"one refinement step takes {fixed + step:.1f} ms here, and the sampling budget is {milliseconds:g} ms; "
            "raise it, or use a smaller network"
        )
    steps = steps if most is None else min(steps, most)
    policy.set_sampler(**{option: steps})
    return Budget(steps, round(step, 3), round(fixed, 3))


def _slowest(policy: Any, observation: Mapping[str, Any], option: str, steps: int, clock: Callable[[], float]) -> float:
    """Milliseconds of the slowest of several calls, after one that warms up."""
    policy.set_sampler(**{option: steps})
    times = []
    for i in range(REPEATS + 1):
        start = clock()
        policy.act(observation, noise_keys=[(i,)])
        times.append(1000 * (clock() - start))
    return max(times[1:])
