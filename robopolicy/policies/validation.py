"""The border where observations enter a policy: everything wrong is refused by key, with the remedy, and cheaply.

A state vector costs a few microseconds; float images are searched for bad values, uint8 images cannot hold any.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import InvalidObservation, did_you_mean
from robopolicy.core.specs import TASK, FeatureKind, FeatureSpec, ObservationSpec, without_goal
from robopolicy.policies.validation_kinds import check_depth, check_pose, sentences

log = logging.getLogger(__name__)

# Resampling may overshoot the range of a float image by a little; 0..255 as float overshoots by a lot.
RANGE_SLACK = 1e-3


class ObservationChecker:
    """Turns an observation into tensors of known shape, or raises ``InvalidObservation``."""

    def __init__(self, spec: ObservationSpec, n_obs_steps: int, goal_steps: int = 1) -> None:
        self.features = tuple(without_goal(f) for f in spec.features)
        self._goals = {f.key: goal_steps for f in spec.of_kind(FeatureKind.GOAL)}
        self.keys = frozenset(spec.keys)
        self._ignored = self.keys | {TASK}
        self.n_obs_steps = n_obs_steps
        self._extra_seen = False

    def check(self, obs: Mapping[str, Any], values: bool = True) -> dict[str, Any]:
        """Tensors ``(B, n_obs_steps, ...)`` of the policy's keys; ``obs`` itself is never changed.

        Language becomes an object array ``(B, n_obs_steps)`` of strings.

        ``values=False`` checks keys, shapes and types only (training batches: finding NaN is the loop's guard).
        """
        if not isinstance(obs, Mapping):
            raise InvalidObservation(f"expected a mapping of keys to arrays, got {type(obs).__name__}")
        if not self._extra_seen and not self._ignored.issuperset(obs):
            self._extra_seen = True
            extra = sorted(str(k) for k in obs if k not in self._ignored)
            log.warning("observation keys the policy does not read: %s", ", ".join(extra))
        out: dict[str, Any] = {}
        batch: int | None = None
        for feature in self.features:
            if feature.key not in obs:
                raise self._missing(feature, obs)
            if feature.kind is FeatureKind.LANGUAGE:
                out[feature.key] = sentences(feature, obs[feature.key], self.n_obs_steps)
                batch = _check_batch(feature, len(out[feature.key]), batch)
                continue
            tensor = _as_tensor(feature, obs[feature.key])
            batch = self._check_shape(feature, tensor, batch)
            if values:
                _check_values(feature, tensor)
            out[feature.key] = tensor
        return out

    def _missing(self, feature: FeatureSpec, obs: Mapping[str, Any]) -> InvalidObservation:
        spare = [str(k) for k in obs if k not in self.keys]
        hint = did_you_mean(feature.key, spare).replace("known:", "unused keys:")
        without = "; set_sampler(guidance=0) acts without a goal" if feature.key in self._goals else ""
        return InvalidObservation(f"missing key '{feature.key}' (the policy reads {sorted(self.keys)}){hint}{without}")

    def _check_shape(self, feature: FeatureSpec, tensor: Tensor, batch: int | None) -> int:
        shape = tuple(tensor.shape)
        want = (self._goals.get(feature.key, self.n_obs_steps), *feature.shape)
        if shape[1:] != want or not shape[0]:
            raise InvalidObservation(
                f"{feature.key}: expected shape (B, {', '.join(map(str, want))}), got {shape}"
                + _shape_hint(shape, want, feature)
            )
        return _check_batch(feature, shape[0], batch)


def _check_batch(feature: FeatureSpec, rows: int, batch: int | None) -> int:
    if batch is not None and rows != batch:
        raise InvalidObservation(f"{feature.key}: batch of {rows}, the other keys have {batch}")
    return rows


def _as_tensor(feature: FeatureSpec, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8:
            raise InvalidObservation(f"{feature.key}: expected numbers, got dtype {value.dtype}")
        # Torch cannot share memory it may not write to, nor negative strides, nor other byte orders.
        if not (value.flags.writeable and value.flags.c_contiguous and value.dtype.isnative):
            value = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        tensor = torch.from_numpy(value)
    elif isinstance(value, Tensor):
        tensor = value.detach()
    else:
        raise InvalidObservation(f"{feature.key}: expected a NumPy array or a tensor, got {type(value).__name__}")
    if feature.kind is FeatureKind.IMAGE and tensor.dtype == torch.uint8:
        return tensor
    if tensor.is_floating_point():
        return tensor.float()
    if feature.kind is FeatureKind.DEPTH:
        raise InvalidObservation(
            f"{feature.key}: expected float32 metres, got {tensor.dtype}; divide a sensor's millimetres by 1000"
        )
    want = "uint8 or float" if feature.kind is FeatureKind.IMAGE else "float32"
    raise InvalidObservation(f"{feature.key}: expected {want}, got {tensor.dtype}; convert it")


def _shape_hint(shape: tuple[int, ...], want: tuple[int, ...], feature: FeatureSpec) -> str:
    if shape == want:
        return "; add the batch dimension in front"
    if shape == feature.shape or not shape:
        return "; add the batch and time dimensions in front"
    if shape and not shape[0]:
        return "; the batch is empty"
    if feature.kind is FeatureKind.IMAGE and len(shape) >= 3 and shape[-1] == 3 and shape[-3] != 3:
        return "; it looks channel-last, transpose it to (3, height, width)"
    if feature.kind is FeatureKind.IMAGE and shape[-2:] != want[-2:]:
        return "; resize to the size the policy was trained on"
    if len(shape) == len(want) + 1 and shape[1] != want[0]:
        return f"; the policy looks at {want[0]} observation steps"
    return ""


def _check_values(feature: FeatureSpec, tensor: Tensor) -> None:
    if tensor.dtype == torch.uint8:
        return
    if feature.kind is not FeatureKind.IMAGE:
        if not bool(torch.isfinite(tensor).all()):
            raise _not_finite(feature, tensor)
        if feature.kind is FeatureKind.DEPTH:
            check_depth(feature, tensor)
        elif feature.kind is FeatureKind.POSE:
            check_pose(feature, tensor)
        return
    low, high = (float(x) for x in torch.aminmax(tensor))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _not_finite(feature, tensor)
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        hint = "; divide by 255 or pass uint8" if high > 2 else "; undo the normalisation, the policy does its own"
        raise InvalidObservation(f"{feature.key}: float images must be in 0..1, got {low:.4g}..{high:.4g}{hint}")


def _not_finite(feature: FeatureSpec, tensor: Tensor) -> InvalidObservation:
    where: Sequence[int] = torch.nonzero(~torch.isfinite(tensor))[0].tolist()
    value = float(tensor[tuple(where)])
    name = ""
    if feature.names and feature.kind is not FeatureKind.IMAGE:
        name = f" ({feature.names[where[-1]]})"
    return InvalidObservation(f"{feature.key}: {value} at index {tuple(where)}{name}; mend the sensor or the simulator")
