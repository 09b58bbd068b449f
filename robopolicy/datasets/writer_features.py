"""From specs to the features of ``info.json``, and from frames to checked values and parquet columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from robopolicy.core.errors import ConfigError, InvalidAction, InvalidObservation, did_you_mean
from robopolicy.core.specs import ACTION, ActionSpace, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.datasets.layout_v3 import DEFAULT_FEATURES, arrow_type

# Short names callers may use for the usual per-frame extras.
ALIASES = {"reward": "next.reward", "success": "next.success", "done": "next.done", "truncated": "next.truncated"}


def observation_features(spec: ObservationSpec, image_dtype: str) -> dict[str, dict[str, Any]]:
    """Features of ``info.json`` for an observation spec; language has no column of its own (it is the task)."""
    features: dict[str, dict[str, Any]] = {}
    for f in spec.features:
        if "/" in f.key or f.key in DEFAULT_FEATURES or f.key == ACTION:
            raise ConfigError(f"'{f.key}' cannot be an observation key of a dataset; rename it")
        if f.kind is FeatureKind.IMAGE:
            _, height, width = f.shape
            names = ["height", "width", "channels"]
            features[f.key] = {"dtype": image_dtype, "shape": [height, width, 3], "names": names}
        elif f.kind is not FeatureKind.LANGUAGE:
            labels = list(f.names) if f.names else None
            features[f.key] = {"dtype": "float32", "shape": list(f.shape) or [1], "names": labels}
    return features


def action_feature(space: ActionSpace) -> dict[str, Any]:
    """Feature of ``info.json`` for the action."""
    return {"dtype": "float32", "shape": [space.dim], "names": list(space.names) if space.names else None}


def extra_features(extra: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Features for per-frame extras given as ``{name: dtype}``, ``{name: feature dict}`` or ``{name: first value}``."""
    features: dict[str, dict[str, Any]] = {}
    for name, what in extra.items():
        key = ALIASES.get(name, name)
        if "/" in key or key in DEFAULT_FEATURES:
            raise ConfigError(f"'{key}' cannot be an extra feature; rename it")
        if isinstance(what, Mapping):
            features[key] = {"names": None, **what, "shape": list(what.get("shape", [1]))}
            continue
        if isinstance(what, (str, type, np.dtype)):
            dtype, shape = np.dtype(what), (1,)
        else:
            value = np.asarray(what)
            dtype, shape = value.dtype, value.shape or (1,)
            if np.issubdtype(dtype, np.floating):
                dtype = np.dtype(np.float32)
        features[key] = {"dtype": dtype.name, "shape": list(shape), "names": None}
    return features


def check_observation(obs: Mapping[str, Any], features: Sequence[FeatureSpec]) -> dict[str, np.ndarray]:
    """Values of one step by key, checked against the spec: keys, shape, dtype, finiteness (``InvalidObservation``)."""
    keys = [f.key for f in features]
    if missing := [k for k in keys if k not in obs]:
        raise InvalidObservation(f"frame lacks {', '.join(missing)}; it has {', '.join(sorted(obs)) or 'nothing'}")
    if extra := [k for k in obs if k not in keys]:
        raise InvalidObservation(f"frame has '{extra[0]}', which the spec lacks" + did_you_mean(extra[0], keys))
    return {f.key: _check_feature(np.asarray(obs[f.key]), f) for f in features}


def _check_feature(value: np.ndarray, f: FeatureSpec) -> np.ndarray:
    shape = f.shape or (1,)
    value = value.reshape(shape) if f.shape == () and value.size == 1 else value
    if value.shape != shape:
        hint = "; transpose it, images are channel-first" if value.shape == shape[1:] + shape[:1] != shape else ""
        raise InvalidObservation(f"{f.key}: expected shape {shape}, got {value.shape}{hint}")
    if f.kind is FeatureKind.IMAGE:
        if value.dtype != np.uint8:
            raise InvalidObservation(f"{f.key}: images are recorded as uint8 0..255, got {value.dtype}; scale and cast")
        return value
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        raise InvalidObservation(f"{f.key}: {value[where]} at {where}; record only finite values")
    return value


def check_action(action: Any, space: ActionSpace) -> np.ndarray:
    """One action as float32 (D,); raises ``InvalidAction`` on shape or a non-finite entry."""
    value = np.asarray(action, np.float32)
    if value.shape != (space.dim,):
        raise InvalidAction(f"action: expected shape ({space.dim},), got {value.shape}")
    if not np.isfinite(value).all():
        where = int(np.argmin(np.isfinite(value)))
        raise InvalidAction(f"action: {value[where]} in channel {where}; record only finite values")
    return value


def check_extras(given: Mapping[str, Any], features: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Per-frame extras by full name, cast to their declared dtype and shape (``InvalidObservation`` otherwise)."""
    values = {ALIASES.get(k, k): v for k, v in given.items()}
    if set(values) != set(features):
        raise InvalidObservation(
            f"extras of a frame must be the same throughout: expected {sorted(features) or 'none'}, "
            f"got {sorted(values) or 'none'}"
        )
    checked: dict[str, Any] = {}
    for key, feature in features.items():
        if feature["dtype"] == "string":
            checked[key] = str(values[key])
            continue
        value = np.asarray(values[key], feature["dtype"])
        shape = tuple(feature["shape"])
        if value.shape != shape and not (value.shape == () and shape == (1,)):
            raise InvalidObservation(f"{key}: expected shape {shape}, got {value.shape}")
        checked[key] = value.reshape(shape)
    return checked


def png_bytes(image: np.ndarray) -> bytes:
    """PNG of one (3, H, W) uint8 image."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(sink, "png", compress_level=1)
    return sink.getvalue()


def column(values: Sequence[Any], feature: Mapping[str, Any]) -> pa.Array:
    """Parquet column of one episode: ``values`` are T arrays of the feature's shape, strings, or PNG structs."""
    kind = arrow_type(feature)
    if feature["dtype"] in ("image", "string"):
        return pa.array(list(values), kind)
    array = np.stack([np.asarray(v, feature["dtype"]) for v in values])
    flat = pa.array(array.ravel())
    if not pa.types.is_nested(kind):
        return flat
    if array.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    for size in reversed(array.shape[1:]):
        flat = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, size), pa.int32()), flat)
    return flat


def flat_column(values: pa.ChunkedArray) -> np.ndarray:
    """All leaf numbers of a (nested) numeric column in row order."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)
