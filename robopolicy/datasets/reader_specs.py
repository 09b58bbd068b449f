"""Derives the framework's observation and action contracts from a dataset's info.json."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from robopolicy.core.errors import ConfigError, DatasetError, did_you_mean
from robopolicy.core.specs import (
    ACTION,
    TIME,
    ActionSpace,
    FeatureKind,
    FeatureSpec,
    ObservationSpec,
    action_space_from_dict,
    kind_of_key,
    observation_spec_from_dict,
)
from robopolicy.datasets.reader_info import Info
from robopolicy.datasets.reader_types import Feature

# Key in info.json under which our writer keeps what LeRobot's features cannot say (units, modes, calibration).
OWN = "robopolicy"


def _own(info: Info, name: str) -> Any:
    own = info.raw.get(OWN)
    return own.get(name) if isinstance(own, dict) else None


def observation_spec(info: Info, features: Iterable[Feature]) -> ObservationSpec:
    """Spec of every observation the dataset carries, in the order of info.json (cameras ``(3, H, W)``).

    A spec stored by our writer wins for keys it describes, since it also knows units and cameras' calibration.
    """
    stored: dict[str, FeatureSpec] = {}
    if (raw := _own(info, "observation_spec")) is not None:
        stored = {f.key: f for f in observation_spec_from_dict(raw).features}
    specs = []
    for feature in features:
        observed = feature.key.startswith(("observation.", "goal.")) or feature.is_camera
        if not observed or feature.storage == "string" or feature.key.startswith(TIME):
            continue
        kind = FeatureKind.IMAGE if feature.is_camera else kind_of_key(feature.key)
        if kind is FeatureKind.IMAGE and not feature.is_camera:
            kind = FeatureKind.STATE
        own = stored.get(feature.key)
        if own is not None and own.shape == feature.shape:
            specs.append(own)
        else:
            specs.append(FeatureSpec(feature.key, feature.shape, kind, feature.names))
    return ObservationSpec(tuple(specs))


def action_space(info: Info, features: dict[str, Feature]) -> ActionSpace:
    """What one action of the dataset means; mode and bounds are known only for sets of our own writer.

    Raises ``DatasetError`` when there is no ``action`` feature or it is not a vector.
    """
    feature = features.get(ACTION)
    if feature is None:
        raise DatasetError(f"the dataset has no '{ACTION}' feature" + did_you_mean(ACTION, features))
    if len(feature.shape) != 1:
        raise DatasetError(f"'{ACTION}' has shape {feature.shape}; expected a vector")
    if (raw := _own(info, "action_space")) is not None:
        try:
            space = action_space_from_dict(raw)
        except (ConfigError, KeyError, TypeError, ValueError) as e:
            raise DatasetError(f"meta/info.json: damaged '{OWN}.action_space' ({e})") from e
        if space.dim == feature.shape[0]:
            return space
    return ActionSpace(dim=feature.shape[0], names=feature.names)
