"""Averages of what several chunks say about one instant, and what lies between two instants.

Source: Zhao et al. 2023 (ACT, arXiv 2304.13705), temporal ensembling: ``w_i = exp(-m i)``, ``i = 0`` the oldest.
Differs: turns are averaged as turns (angles on the circle, the others in the tangent space at the newest) and told in
the newest's form; channels that switch are the newest's, since the mean of open and closed is neither.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from robopolicy.core.specs import ActionSpace
from robopolicy.core.turns import turns_of

TINY = 1e-6  # length below which four numbers are no quaternion


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


def wrapped(difference: np.ndarray, period: float) -> np.ndarray:
    """Differences of angles, within half a ``period`` of 0."""
    near: np.ndarray = difference - period * np.round(difference / period)
    return near


def other_vector(vector: np.ndarray) -> np.ndarray:
    """The other rotation vectors ``(..., 3)`` of the same turns: the other way round; of no turn, the same."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    other: np.ndarray = vector * (1 - 2 * np.pi / np.maximum(angle, TINY)) if angle.size else vector
    return np.where(angle > TINY, other, vector)


class Mixer:
    """Weighted means of actions of one space."""

    def __init__(self, space: ActionSpace) -> None:
        """Raises ``ConfigError`` where rotation channels do not come in neighbouring sixes."""
        self._turns = turns_of(space)
        self._plain, self._angles = list(self._turns.plain), list(self._turns.angles)

    def mix(self, said: np.ndarray, weights: np.ndarray, base: int = -1) -> np.ndarray:
        """One action ``(D,)`` of ``said`` ``(n, D)`` with ``weights`` ``(n,)`` of sum 1.

        Switches, and the form of turns (which turn of the circle, which sign of a quaternion), are those of ``base``.
        """
        all_said = said.astype(np.float64)
        chosen = all_said[base]
        mean = chosen.copy()
        mean[self._plain] = weights @ all_said[:, self._plain]
        ways = wrapped(all_said[:, self._angles] - chosen[self._angles], self._turns.period)
        mean[self._angles] += weights @ ways
        for group in map(list, self._turns.sixes):
            mean[group] = rotation_to_six(_mean(six_to_rotation(all_said[:, group]), weights, base))
        for group in map(list, self._turns.quaternions):
            if (np.linalg.norm(all_said[:, group], axis=1) > TINY).all():
                q = _mean(Rotation.from_quat(all_said[:, group]), weights, base).as_quat()
                mean[group] = q if q @ chosen[group] >= 0 else -q
        for group in map(list, self._turns.vectors):
            vector = _mean(Rotation.from_rotvec(all_said[:, group]), weights, base).as_rotvec()
            mean[group] = min(vector, other_vector(vector), key=lambda v: float(np.linalg.norm(v - chosen[group])))
        return mean.astype(said.dtype)


def _mean(turns: Rotation, weights: np.ndarray, base: int) -> Rotation:
    """Mean in the tangent space at one of them; of two it is slerp."""
    at = turns[base]
    return at * Rotation.from_rotvec(weights @ (at.inv() * turns).as_rotvec())


class Averager(Mixer):
    """Means over the age of what was said."""

    def __init__(self, space: ActionSpace, decay: float) -> None:
        """See ``Mixer``."""
        super().__init__(space)
        self.decay = decay

    def weights(self, count: int) -> np.ndarray:
        """``(count,)``, oldest first, sum 1."""
        raw = np.exp(-self.decay * np.arange(count))
        weights: np.ndarray = raw / raw.sum()
        return weights

    def mean(self, said: np.ndarray) -> np.ndarray:
        """One action ``(D,)`` of ``said`` ``(n, D)``, oldest first."""
        return self.mix(said, self.weights(len(said))) if len(said) > 1 else said[-1]
