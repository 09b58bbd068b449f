"""Averages of what several chunks say about one instant.

Source: Zhao et al. 2023 (ACT, arXiv 2304.13705), temporal ensembling: ``w_i = exp(-m i)``, ``i = 0`` the oldest.
Differs: rotations are averaged in the tangent space at the newest; channels that switch are the newest's, since the
mean of open and closed is neither.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ActionSpace, ChannelKind


def six_to_rotation(six: np.ndarray) -> Rotation:
    """``(n, 6)``, first two columns of the matrix, made orthonormal (Zhou et al. 2019, arXiv 1812.07035)."""
    first = six[:, :3] / np.linalg.norm(six[:, :3], axis=1, keepdims=True)
    second = six[:, 3:] - (first * six[:, 3:]).sum(1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return Rotation.from_matrix(np.stack((first, second, np.cross(first, second)), axis=-1))


def rotation_to_six(rotation: Rotation) -> np.ndarray:
    """``(n, 6)`` of rotations."""
    matrix = rotation.as_matrix()
    return np.concatenate((matrix[..., 0], matrix[..., 1]), axis=-1)


class Averager:
    """Weighted means of actions of one space."""

    def __init__(self, space: ActionSpace, decay: float) -> None:
        """Raises ``ConfigError`` where rotation channels do not come in neighbouring sixes."""
        kinds = np.array([kind.value for kind in space.channel_kinds])
        turned = np.flatnonzero(kinds == ChannelKind.ROT6D.value)
        sixes = turned.reshape(-1, 6) if len(turned) % 6 == 0 else np.zeros((1, 6), int)
        if len(turned) and (np.diff(sixes, axis=1) != 1).any():
            raise ConfigError(f"rotations of an action must be six neighbouring channels each, got {turned.tolist()}")
        self.decay, self._sixes = decay, sixes
        self._plain = np.flatnonzero(kinds == ChannelKind.EUCLIDEAN.value)

    def weights(self, count: int) -> np.ndarray:
        """``(count,)``, oldest first, sum 1."""
        raw = np.exp(-self.decay * np.arange(count))
        weights: np.ndarray = raw / raw.sum()
        return weights

    def mean(self, said: np.ndarray) -> np.ndarray:
        """One action ``(D,)`` of ``said`` ``(n, D)``, oldest first."""
        newest = said[-1]
        if len(said) == 1:
            return newest
        weights, mean = self.weights(len(said)), newest.astype(np.float64)
        mean[self._plain] = weights @ said[:, self._plain]
        for six in self._sixes:
            turns = six_to_rotation(said[:, six].astype(np.float64))
            base = turns[-1]
            mean[six] = rotation_to_six(base * Rotation.from_rotvec(weights @ (base.inv() * turns).as_rotvec()))
        return mean.astype(newest.dtype)
