"""Batches of offline and online transitions in a fixed proportion.

Source: RLPD (Ball et al. 2023, arXiv 2302.02948), symmetric sampling: half of every batch from each source.  Differs:
any proportion, the first updates (before an episode was collected) are all offline, and a batch is a function of its
key alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.improver import ReplayLayout
from robopolicy.core.seeding import generator
from robopolicy.rl.replay import ReplayView, batch_shapes
from robopolicy.rl.transitions import LATENT


class Offline(Protocol):
    """What is needed of ``training.critic_data.Transitions``."""

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> Mapping[str, Any]:
        """Batch of transitions ``indices`` ``(B,)``."""


class Mixture:
    """Draws batches from a view of the replay and from offline transitions, if there are any.

    Raises ``ConfigError`` for offline transitions that are not of the replay's layout.
    """

    def __init__(self, online: ReplayView, offline: Offline | None = None) -> None:
        self.online = online
        self.offline = offline if offline is not None and len(offline) else None
        if self.offline is not None:
            check_offline(self.offline, online.layout)

    def shares(self, size: int, mixing: float) -> tuple[int, int]:
        """Offline and online rows of a batch: ``round(size * mixing)`` and the rest, all of one without the other."""
        if not 0 <= mixing <= 1 or size < 1:
            raise ConfigError(f"a batch has size >= 1 and mixing in [0, 1], got {size} and {mixing}")
        if self.offline is None:
            return 0, size
        if not len(self.online):
            return size, 0
        offline = round(size * mixing)
        return offline, size - offline

    def batch(self, size: int, mixing: float, key: Sequence[int]) -> dict[str, np.ndarray]:
        """``size`` transitions, offline ones first, each drawn with replacement; a function of ``key`` (integers >= 0).

        Offline transitions have no ``latent``, so batches that hold any have none.
        Raises ``ConfigError`` where there is nothing to draw from.
        """
        offline, online = self.shares(size, mixing)
        if self.offline is None and not len(self.online):
            raise ConfigError("nothing to learn from: no episode was collected and there are no offline data")
        rng = generator("replay", *key)
        parts: list[Mapping[str, np.ndarray]] = []
        if offline:
            assert self.offline is not None
            parts.append(self.offline.gather(rng.integers(0, len(self.offline), offline)))
        if online:
            parts.append(self.online.batch(rng.integers(0, len(self.online), online)))
        names = [name for name in _names(self.online.layout) if all(name in part for part in parts)]
        if len(parts) == 1:  # no further copy of pictures
            return {name: parts[0][name] for name in names}
        return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _names(layout: ReplayLayout) -> list[str]:
    numbers = ["reward", "discount", "n", "mc_return", "terminated", "truncated", "success"]
    return [*batch_shapes(layout), LATENT, *numbers]


def check_offline(offline: Offline, layout: ReplayLayout) -> None:
    """Raise ``ConfigError`` naming the key in which offline transitions differ from what the replay stores."""
    example = offline.gather(np.zeros(1, np.int64))
    for name, (shape, dtype) in batch_shapes(layout).items():
        if name not in example:
            raise ConfigError(f"the offline data have no '{name}', which is learned from; use data with the same keys")
        theirs = np.asarray(example[name])
        if theirs.shape[1:] != shape or theirs.dtype != dtype:
            raise ConfigError(
                f"'{name}' is {theirs.shape[1:]} {theirs.dtype} in the offline data and {shape} {dtype} in the replay; "
                "use data of the same environment and picture size"
            )
