"""Every way we know to hand a policy a wrong observation, as labelled examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from robopolicy.core.specs import FeatureKind, FeatureSpec, ObservationSpec, without_goal

Change = Callable[[np.ndarray], object]


class BadObservation(NamedTuple):
    """A labelled observation that must be refused with a message that names ``key``."""

    label: str
    key: str
    obs: dict[str, object]


def bad_observations(good: Mapping[str, np.ndarray], spec: ObservationSpec) -> Iterator[BadObservation]:
    """Wrong variants of ``good``, one thing wrong in each."""
    for feature in spec.features:
        kind = without_goal(feature).kind
        changes = LANGUAGE if kind is FeatureKind.LANGUAGE else {**COMMON, **OWN.get(kind, VECTOR)}
        for label, change in changes.items():
            yield BadObservation(
                f"{feature.key}: {label}", feature.key, {**good, feature.key: change(good[feature.key])}
            )
        yield from _key_faults(good, feature)
        if len(spec.features) > 1:
            doubled = np.concatenate([good[feature.key]] * 2)
            blamed = next(f.key for f in spec.features[1:]) if feature is spec.features[0] else feature.key
            yield BadObservation(f"{feature.key}: other batch size", blamed, {**good, feature.key: doubled})


def _key_faults(good: Mapping[str, np.ndarray], feature: FeatureSpec) -> Iterator[BadObservation]:
    rest: dict[str, object] = {k: v for k, v in good.items() if k != feature.key}
    yield BadObservation(f"{feature.key}: missing", feature.key, rest)
    renamed = {**rest, feature.key + "_renamed": good[feature.key]}
    yield BadObservation(f"{feature.key}: renamed", feature.key, renamed)


def _put(value: float) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        out = _as_float(array)
        out[(-1,) * out.ndim] = value
        return out

    return change


def _as_float(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)


COMMON: dict[str, Change] = {
    "NaN": _put(np.nan),
    "+inf": _put(np.inf),
    "-inf": _put(-np.inf),
    "no batch dimension": lambda a: a[0],
    "one step only": lambda a: a[0, 0],
    "an extra dimension": lambda a: a[None],
    "one observation step too many": lambda a: np.concatenate([a, a[:, -1:]], axis=1),
    "an empty batch": lambda a: a[:0],
    "int64": lambda a: a.astype(np.int64),
    "bool": lambda a: a.astype(bool),
    "complex": lambda a: a.astype(np.complex64),
    "objects": lambda a: a.astype(object),
    "text": lambda a: "observation",
    "a list": lambda a: a.tolist(),
    "None": lambda a: None,
}

VECTOR: dict[str, Change] = {
    "one channel too few": lambda a: a[..., :-1],
    "one channel too many": lambda a: np.concatenate([a, a[..., :1]], axis=-1),
    "uint8": lambda a: a.astype(np.uint8),
    "beyond float32": lambda a: a.astype(np.float64) * 0 + 1e39,
}

IMAGE: dict[str, Change] = {
    "channel-last": lambda a: np.moveaxis(a, -3, -1),
    "one channel": lambda a: a[..., :1, :, :],
    "too tall": lambda a: np.concatenate([a, a], axis=-2),
    "too narrow": lambda a: a[..., :-1],
    "float in 0..255": lambda a: a.astype(np.float32),
    "float in -1..1": lambda a: _as_float(a) * 2 - 1,
}

DEPTH: dict[str, Change] = {
    "channel-last": lambda a: np.moveaxis(a, -3, -1),
    "too tall": lambda a: np.concatenate([a, a], axis=-2),
    "too narrow": lambda a: a[..., :-1],
    "negative": _put(-0.01),
    "millimetres": lambda a: a * 1000,
    "whole millimetres": lambda a: (a * 1000).astype(np.uint16),
}

POSE: dict[str, Change] = {
    "not a matrix": lambda a: a[..., 0],
    "three rows": lambda a: a[..., :3, :],
    "all zeros": lambda a: a * 0,
    "a scaled rotation": lambda a: a * np.array([1.1, 1.1, 1.1, 1.0], np.float32),
    "a mirror image": lambda a: a * np.array([-1.0, 1.0, 1.0, 1.0], np.float32),
    "transposed": lambda a: np.swapaxes(a, -1, -2),
}

LANGUAGE: dict[str, Change] = {
    "one string": lambda a: str(a[0, 0]),
    "a flat list": lambda a: a[:, 0].tolist(),
    "one step too many": lambda a: np.concatenate([a, a[:, -1:]], axis=1).tolist(),
    "no rows": lambda a: [],
    "numbers": lambda a: np.zeros(a.shape, np.float32),
    "numbers in lists": lambda a: np.zeros(a.shape).tolist(),
    "an empty sentence": lambda a: np.full(a.shape, " ", dtype=object),
    "a sentence nobody taught": lambda a: np.full(a.shape, str(a[0, 0])[::-1], dtype=object),
    "None": lambda a: None,
}

OWN = {FeatureKind.IMAGE: IMAGE, FeatureKind.DEPTH: DEPTH, FeatureKind.POSE: POSE}
