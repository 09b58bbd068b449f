"""What a new chunk is held to, in the form in which it says its turns.

An old chunk that ends at a yaw of 3.1 rad and a new one that begins at -3.1 are 5 degrees apart, and their numbers a
whole turn.  A pull along the numbers would drag the new chunk away from what it continues, so at every question to the
network each turn of the old chunk is told as the image that is nearest to the estimate: another turn of the circle, the
other sign of a quaternion, or the rotation vector the other way round.  Where chunks say their turns in one form
anyhow (the embedded arms: a yaw within 1.2 rad), the nearest is the one that was said, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.specs import ActionSpace
from robopolicy.core.turns import turns_of
from robopolicy.wrappers.execution.averages import other_vector


class Images:
    """``previous`` ``(N, H, D)``, physical, as whatever image of it is nearest.

    ``to_model``: physical chunks to model space, where estimates and distances are.
    """

    def __init__(self, previous: np.ndarray, space: ActionSpace, to_model: Callable[[np.ndarray], Tensor]) -> None:
        turns = turns_of(space)
        self._said = to_model(previous)
        groups: list[tuple[list[int], list[np.ndarray]]] = []
        for i in turns.angles:
            groups.append(([i], [previous[..., [i]] + k * turns.period for k in (-1, 1)]))
        groups += [(list(g), [-previous[..., list(g)]]) for g in turns.quaternions]
        groups += [(list(g), [other_vector(previous[..., list(g)])]) for g in turns.vectors]
        self._groups = [
            (g, torch.stack([self._said[..., g], *self._others(previous, g, o, to_model)])) for g, o in groups
        ]

    @staticmethod
    def _others(
        previous: np.ndarray, group: list[int], others: list[np.ndarray], to_model: Callable[[np.ndarray], Tensor]
    ) -> list[Tensor]:
        made = []
        for other in others:
            whole = previous.copy()
            whole[..., group] = other
            made.append(to_model(whole)[..., group])
        return made

    def nearest(self, estimate: Tensor) -> Tensor:
        """``(N, H, D)`` in model space; ``estimate`` ``(N, H, D)`` decides step by step."""
        if not self._groups:
            return self._said
        found = self._said.clone()
        for group, images in self._groups:
            distance = (images - estimate[..., group]).square().sum(-1)
            best = distance.argmin(0)  # of two as near the first, which was said
            found[..., group] = images.gather(0, best[None, ..., None].expand(1, *best.shape, len(group)))[0]
        return found
