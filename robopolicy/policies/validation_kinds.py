"""Checks of observations that are neither vectors nor pictures: depth, camera poses, sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import InvalidObservation
from robopolicy.core.specs import FeatureSpec

# Orthonormal to this, entry by entry: float32 poses from a chain of joints are good to about 1e-6.
ROTATION_SLACK = 1e-3
# No table-top camera sees this far; depth in millimetres does.
FARTHEST = 1000.0


def check_depth(feature: FeatureSpec, tensor: Tensor) -> None:
    """Depth in metres: 0 means no return; negative and absurd numbers are refused (not finite ones were before)."""
    low, high = (float(x) for x in torch.aminmax(tensor))
    if low < 0:
        raise InvalidObservation(
            f"{feature.key}: depth {low:.4g} is negative; expected metres along the optical axis, 0 for no return"
        )
    if high > FARTHEST:
        raise InvalidObservation(f"{feature.key}: depth reaches {high:.4g}; expected metres, convert from millimetres")


def check_pose(feature: FeatureSpec, tensor: Tensor) -> None:
    """Camera-to-world poses ``(..., 4, 4)``: an orthonormal right-handed rotation, last row 0 0 0 1."""
    rotation = tensor[..., :3, :3]
    square = rotation @ rotation.transpose(-1, -2)
    error = (square - torch.eye(3, device=tensor.device)).abs().amax(dim=(-1, -2))
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=tensor.device)
    if bool((error > ROTATION_SLACK).any()):
        worst = float(error.max())
        raise InvalidObservation(
            f"{feature.key}: the rotation is not orthonormal (off by {worst:.2g}); expected a 4x4 camera-to-world pose"
        )
    if bool((torch.linalg.det(rotation) < 0).any()):
        raise InvalidObservation(f"{feature.key}: the rotation is a mirror image (determinant -1); check the axes")
    if bool(((tensor[..., 3, :] - last).abs() > ROTATION_SLACK).any()):
        raise InvalidObservation(f"{feature.key}: the last row must be 0 0 0 1; is the pose transposed?")


def sentences(feature: FeatureSpec, value: Any, steps: int) -> np.ndarray:
    """``(B, steps)`` object array of sentences.

    Takes B lists of ``steps`` strings, an array of that shape, or an array of B strings (the same at every step).
    """
    want = f"{feature.key}: expected B lists of {steps} strings, or an array of B strings"
    if isinstance(value, (list, tuple)):
        if not value or not all(isinstance(row, (list, tuple)) for row in value):
            kinds = sorted({type(row).__name__ for row in value}) or ["nothing"]
            raise InvalidObservation(f"{want}, got a list of {', '.join(kinds)}")
        if any(len(row) != steps for row in value):
            raise InvalidObservation(f"{want}, got lists of {sorted({len(row) for row in value})} strings")
        array = np.empty((len(value), steps), dtype=object)
        array[:] = [list(row) for row in value]
    elif isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        array = value.astype(object)
        if array.ndim == 1:
            array = np.repeat(array[:, None], steps, axis=1)
        if array.ndim != 2 or array.shape[1] != steps or not len(array):
            raise InvalidObservation(f"{want}, got an array of shape {value.shape}")
    else:
        what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InvalidObservation(f"{want}, got {what}")
    for where, text in np.ndenumerate(array):
        if not isinstance(text, str) or not text.strip():
            told = "an empty sentence" if isinstance(text, str) else type(text).__name__
            raise InvalidObservation(f"{want}, got {told} at index {where}")
    return array
