"""Fits a policy to its data: which features it reads, and which statistics normalise them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.core.specs import ACTION, ActionSpace, FeatureKind, FeatureStats, ObservationSpec
from robopolicy.encoders.fusion import SUPPORTED
from robopolicy.policies.normalization_config import NormalizationConfig, NormMode

# "identity" promises that the data are normalised already; this much beyond [-1, 1] is a broken promise.
IDENTITY_SLACK = 1.05


def select_features(spec: ObservationSpec, keys: Sequence[str] | None) -> ObservationSpec:
    """The features a policy reads: ``keys``, or every low-dimensional key and camera of ``spec``."""
    if keys is None:
        chosen = ObservationSpec(spec.of_kind(*SUPPORTED))
        if not chosen.features:
            raise ConfigError(f"nothing to observe: no state and no camera among {list(spec.keys)}")
        return chosen
    for key in keys:
        if key not in spec:
            raise ConfigError(f"observation_keys: '{key}' is not in the data" + did_you_mean(key, spec.keys))
    return spec.select(keys)


def select_stats(
    stats: Mapping[str, FeatureStats],
    observation_spec: ObservationSpec,
    action_space: ActionSpace,
    config: NormalizationConfig,
) -> tuple[dict[str, NormMode], dict[str, FeatureStats]]:
    """Normalisation mode and statistics of every vector feature and of ``action``; checks sizes and names.

    Images are left out: their one normalisation belongs to their encoder.
    """
    sizes = {f.key: f.shape[0] for f in observation_spec.features if f.kind is not FeatureKind.IMAGE}
    for key in config.features:
        if key not in sizes:
            raise ConfigError(f"normalization.features names '{key}'" + did_you_mean(key, sizes))
    modes: dict[str, NormMode] = {key: config.of_feature(key) for key in sizes}
    modes[ACTION] = config.action
    sizes[ACTION] = action_space.dim
    for key, size in sizes.items():
        if key not in stats:
            raise ConfigError(f"no statistics for '{key}'" + did_you_mean(key, stats))
        if len(stats[key].min) != size:
            raise ConfigError(f"statistics of '{key}' have {len(stats[key].min)} channels, expected {size}")
    return modes, {key: stats[key] for key in sizes}


def check_identity(stats: FeatureStats, clip: float | None) -> None:
    """Refuse un-normalised actions that the sampler would clip."""
    reach = max(abs(v) for v in (*stats.min, *stats.max))
    if clip is not None and reach > clip * IDENTITY_SLACK:
        raise ConfigError(
            f"identity normalisation, but actions reach {reach:.4g} and the sampler clips at {clip:g}; "
            "use limits normalisation, or set clip"
        )
