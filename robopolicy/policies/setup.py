"""Fits a policy to its data: which features it reads, and which statistics normalise them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.core.specs import (
    ACTION,
    TASK,
    ActionSpace,
    FeatureKind,
    FeatureSpec,
    FeatureStats,
    ObservationSpec,
)
from robopolicy.encoders.cameras import pose_key
from robopolicy.policies.chunk_config import DEFAULT_KINDS, SamplingConfig
from robopolicy.policies.normalization_config import NormalizationConfig, NormMode

# "identity" promises that the data are normalised already; this much beyond [-1, 1] is a broken promise.
IDENTITY_SLACK = 1.05
UNSCALED = (FeatureKind.IMAGE, FeatureKind.DEPTH, FeatureKind.POSE, FeatureKind.LANGUAGE)


def select_features(
    spec: ObservationSpec, keys: Sequence[str] | None, kinds: Sequence[FeatureKind] = DEFAULT_KINDS
) -> ObservationSpec:
    """The features a policy reads: ``keys``, or everything in ``spec`` of the given ``kinds``.

    ``task`` may be asked of any data, since every episode has a sentence.  A depth camera that moves brings its pose
    along, named or not.
    """
    if TASK not in spec and (FeatureKind.LANGUAGE in kinds if keys is None else TASK in keys):
        spec = ObservationSpec((*spec.features, FeatureSpec(TASK, (), FeatureKind.LANGUAGE)))
    if keys is None:
        keys = [f.key for f in spec.of_kind(*kinds)]
        if not keys:
            wanted = " and no ".join(k.value for k in kinds)
            raise ConfigError(f"nothing to observe: no {wanted} among {list(spec.keys)}")
    for key in keys:
        if key not in spec:
            raise ConfigError(f"observation_keys: '{key}' is not in the data" + did_you_mean(key, spec.keys))
    depths = [k for k in keys if spec[k].kind is FeatureKind.DEPTH]
    poses = [pose_key(k) for k in depths if pose_key(k) in spec and pose_key(k) not in keys]
    return spec.select((*keys, *poses))


def select_stats(
    stats: Mapping[str, FeatureStats],
    observation_spec: ObservationSpec,
    action_space: ActionSpace,
    config: NormalizationConfig,
) -> tuple[dict[str, NormMode], dict[str, FeatureStats]]:
    """Normalisation mode and statistics of every vector feature and of ``action``; checks sizes and names.

    Images, depth, poses and language are left out: what numbers they have are read as they are by their encoders.
    """
    sizes = {f.key: f.shape[0] for f in observation_spec.features if f.kind not in UNSCALED}
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


def check_identity(config: SamplingConfig, stats: FeatureStats) -> None:
    """Refuse un-normalised actions that the sampler would clip; fine wherever actions are normalised."""
    if config.normalization.action != "identity":
        return
    clip, reach = config.clip_range, max(abs(v) for v in (*stats.min, *stats.max))
    if clip is not None and reach > clip * IDENTITY_SLACK:
        raise ConfigError(
            f"identity normalisation, but actions reach {reach:.4g} and the sampler clips at {clip:g}; "
            "use limits normalisation, or set clip"
        )
