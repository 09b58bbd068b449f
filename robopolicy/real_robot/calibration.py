"""How long after a command the arm and the hand follow it: action latencies from a recorded motion.

Source: latency by cross-correlation of commanded and measured motion as in UMI (arXiv 2402.10329, section on action
latency).  Differs: the correlation is taken with the part that overlaps, normalised for each lag, so that a slow sine
of a few periods is enough and an arm that follows with a smaller amplitude is not misjudged; between the samples its
peak is placed by a parabola.  For the hand a step is used: its speed is limited, so that its curve is a ramp whose
beginning, not whose middle, is the latency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robopolicy.core.errors import ConfigError

STEP = 0.001  # s between the lags that are tried, and between the resampled values
MOST = 1.0  # s; a longer lag is no latency but a fault
LEAST_R = 0.95  # correlation below which the two motions are not the same one
LEAST_MOTION = 0.003  # m (peak to peak) that must have been seen
LEAST_STEP = 0.010  # m of the hand's movement


@dataclass(frozen=True)
class Lag:
    """``seconds`` by which the measured motion is behind; ``correlation`` at that lag; ``ratio`` of the measured
    amplitude to the commanded one; ``samples`` measured."""

    seconds: float
    correlation: float
    ratio: float
    samples: int


def arm_lag(times: np.ndarray, commanded: np.ndarray, seen_at: np.ndarray, measured: np.ndarray) -> Lag:
    """Lag of ``measured (M,)`` at ``seen_at (M,)`` behind ``commanded (N,)`` at ``times (N,)``; metres and seconds.

    Times must be of one clock.  Raises ``ConfigError`` if hardly anything moved or the two do not look alike.
    """
    times, commanded = _sorted(times, commanded)
    seen_at, measured = _sorted(seen_at, measured)
    if len(times) < 50 or len(seen_at) < 50:
        raise ConfigError(f"calibration: too few samples, {len(times)} commands and {len(seen_at)} states; move longer")
    for name, values in (("commanded", commanded), ("measured", measured)):
        if np.ptp(values) < LEAST_MOTION:
            raise ConfigError(
                f"calibration: the {name} motion is only {1e3 * np.ptp(values):.1f} mm, least "
                f"{1e3 * LEAST_MOTION:g} mm; is the controller running, and does it listen to our topic?"
            )
    grid = np.arange(max(times[0], seen_at[0]), min(times[-1], seen_at[-1]), STEP)
    if len(grid) * STEP < 2 * MOST:
        raise ConfigError(f"calibration: only {len(grid) * STEP:.1f} s were seen of both motions; move longer")
    a, b = np.interp(grid, times, commanded), np.interp(grid, seen_at, measured)
    lags = range(round(MOST / STEP))
    scores = np.array([_alike(a[: len(a) - k], b[k:]) for k in lags])
    best = int(np.argmax(scores))
    if scores[best] < LEAST_R or best in (0, len(scores) - 1):
        raise ConfigError(
            f"calibration: the arm did not follow what was commanded (correlation {scores[best]:.2f} at "
            f"{best * STEP:.2f} s, least {LEAST_R}); look at the figure for what it did instead"
        )
    here, there = a[: len(a) - best], b[best:]
    ratio = float(np.std(there) / np.std(here))
    return Lag((best + _vertex(scores[best - 1 : best + 2])) * STEP, float(scores[best]), ratio, len(seen_at))


def _sorted(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By time, every time once, without what is no number."""
    good = np.isfinite(times) & np.isfinite(values)
    unique, first = np.unique(np.asarray(times, np.float64)[good], return_index=True)
    return unique, np.asarray(values, np.float64)[good][first]


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _vertex(three: np.ndarray) -> float:
    """Where, in -0.5..0.5 around the middle, the parabola through three values has its top."""
    low, mid, high = (float(v) for v in three)
    bend = low - 2 * mid + high
    return 0.5 * (low - high) / bend if bend < 0 else 0.0


def hand_lag(asked_at: np.ndarray, times: np.ndarray, widths: np.ndarray) -> Lag:
    """Seconds from each request (``asked_at``, one for each full movement) to the beginning of the hand's movement.

    ``widths (M,)`` m at ``times (M,)``: when each was so.  The beginning is where the line through a fifth and four
    fifths of the way meets the width before, so that neither the hand's speed nor its rate of readings counts; the
    median over the movements is taken.  Raises ``ConfigError`` if the hand did not move.
    """
    times, widths = _sorted(times, widths)
    asked = np.sort(np.asarray(asked_at, np.float64))
    found = []
    for begin, end in zip(asked, [*asked[1:], np.inf], strict=True):
        mine = (times >= begin) & (times < end)
        if (lag := _onset(times[mine] - begin, widths[mine])) is not None:
            found.append(lag)
    if not found:
        raise ConfigError(
            f"calibration: the hand moved less than {1e3 * LEAST_STEP:g} mm at every request; is it homed and free?"
        )
    return Lag(float(np.median(found)), 1.0, 1.0, len(found))


def _onset(times: np.ndarray, widths: np.ndarray) -> float | None:
    if len(widths) < 5:
        return None
    start, end = widths[0], widths[-1]
    if abs(end - start) < LEAST_STEP:
        return None
    share = np.maximum.accumulate((widths - start) / (end - start))
    early, late = (float(_crossing(times, share, level)) for level in (0.2, 0.8))
    return early - 0.2 * (late - early) / 0.6


def _crossing(times: np.ndarray, share: np.ndarray, level: float) -> float:
    i = max(1, int(np.searchsorted(share, level)))
    low, high = share[i - 1], share[i]
    return float(times[i - 1] + (times[i] - times[i - 1]) * (level - low) / (high - low))
