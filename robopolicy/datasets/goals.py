"""Goals by hindsight: what an episode saw later is what its earlier windows were trying to reach.

Source: goal relabelling of C-BeT and BESO (Reuss et al. 2023; spec beso, section 2): a goal is a stretch of frames at
a random time after the observation window, in the same episode.  Differs: a stretch that would leave the episode
repeats its last frame, so that every later frame is equally likely to begin one, and a window without later frames is
marked in ``goal_is_pad`` instead of getting zeros.  A goal feature ``goal.<key>`` reads what ``<key>`` recorded, from
the same column or frame cache.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.core.specs import GOAL, GOAL_IS_PAD, FeatureKind, FeatureSpec, ObservationSpec


def goal_keys(spec: ObservationSpec) -> dict[str, str]:
    """The recorded key that each goal feature of ``spec`` mirrors."""
    return {f.key: recorded_key(f) for f in spec.of_kind(FeatureKind.GOAL)}


def recorded_key(feature: FeatureSpec) -> str:
    """The key whose recorded values a feature reads: its own, or the one a goal mirrors."""
    return feature.key.removeprefix(GOAL) if feature.kind is FeatureKind.GOAL else feature.key


def goal_starts(newest: np.ndarray, last: np.ndarray, draws: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``(B,)`` at which goals begin, and where there is no later frame (there the episode's last row).

    Row ``newest + 1 + floor(draw * (last - newest))``: uniform over the rows after ``newest`` for uniform ``draws``
    ``(B,)`` in [0, 1); without draws the last row of the episode.
    """
    left = last - newest
    if draws is None:
        return last.copy(), left < 1
    draws = np.asarray(draws, np.float64)
    if draws.shape != newest.shape or ((draws < 0) | (draws >= 1)).any():
        raise ConfigError(f"goal draws: expected {newest.shape} numbers in [0, 1), got shape {draws.shape}")
    return np.minimum(newest + 1 + np.floor(draws * left).astype(np.int64), last), left < 1


class Goals:
    """Goals of ``steps`` consecutive frames, gathered from ``sources`` (a row-indexed array by goal key)."""

    def __init__(self, sources: Mapping[str, np.ndarray], steps: int) -> None:
        if not sources:
            raise DatasetError(
                f"the policy asks for goals, but its observations have none; add '{GOAL}observation.state' or the like"
            )
        self.sources, self.steps = sources, steps

    def gather(self, newest: np.ndarray, last: np.ndarray, draws: np.ndarray | None) -> dict[str, np.ndarray]:
        """``goal.*`` ``(B, steps, ...)`` by key, from the frames after rows ``newest`` ``(B,)`` up to ``last``, and
        ``goal_is_pad`` ``(B,)`` bool."""
        start, is_pad = goal_starts(newest, last, draws)
        rows = np.minimum(start[:, None] + np.arange(self.steps), last[:, None])
        return {**{key: source[rows] for key, source in self.sources.items()}, GOAL_IS_PAD: is_pad}
