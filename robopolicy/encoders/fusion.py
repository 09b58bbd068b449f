"""All features of an observation into one, for every observed step: cameras, depth, low-dimensional keys, language.

Source: Diffusion Policy section 3.3 (features concatenated per step, steps flattened time-major for FiLM, or kept
as one token a step for the transformer).  Each camera has its own encoder and its own image size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.core.specs import TASK, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.encoders.cameras import depth_key
from robopolicy.encoders.config import EncoderConfig, ImageEncoderConfig
from robopolicy.encoders.depth import DepthEncoder, colored_cameras
from robopolicy.encoders.features import Features
from robopolicy.encoders.goals import encode_goals
from robopolicy.encoders.image import ImageEncoder
from robopolicy.encoders.language import LanguageEncoder
from robopolicy.encoders.memory import Memory
from robopolicy.encoders.state import StateEncoder
from robopolicy.encoders.temporal import TemporalEncoder, make_projection

SUPPORTED = (FeatureKind.IMAGE, FeatureKind.STATE, FeatureKind.DEPTH, FeatureKind.POSE, FeatureKind.LANGUAGE)
SHARED = "shared"


class ObservationEncoder(nn.Module):
    """Observation dict to ``Features``; ``step_dim`` numbers a step.

    Vectors come normalised; images come as they are (uint8 or float 0..1), because each camera's encoder owns the
    one image normalisation.
    """

    def __init__(
        self, spec: ObservationSpec, config: EncoderConfig, load_weights: bool = False, n_obs_steps: int = 1
    ) -> None:
        super().__init__()
        _check(spec, config)
        self.config = config
        left_out = colored_cameras(spec, config.point_cloud)
        self.cameras = tuple(f for f in spec.of_kind(FeatureKind.IMAGE) if f.key not in left_out)
        self.vectors = spec.of_kind(FeatureKind.STATE)
        self.goals: tuple[FeatureSpec, ...] = ()  # set by heads that take goals; they have no weights of their own
        self.image_encoders = nn.ModuleDict()
        for camera in self.cameras:
            if self._slot(camera) not in self.image_encoders:
                own = camera_config(config, camera.key)
                self.image_encoders[self._slot(camera)] = ImageEncoder(own, _size(camera), load_weights)
        self.state = StateEncoder(sum(f.shape[0] for f in self.vectors), config.state_hidden) if self.vectors else None
        pixels = sum(self.image_encoder(c.key).dim for c in self.cameras)
        self.depth = DepthEncoder(spec, config.point_cloud) if spec.of_kind(FeatureKind.DEPTH) else None
        self.language: LanguageEncoder | None = None
        if spec.of_kind(FeatureKind.LANGUAGE):
            self.language = LanguageEncoder(config.language, load_weights)
        others = (self.depth, self.state, self.language)
        self.step_dim = pixels + sum(part.dim for part in others if part is not None)
        self.project: nn.Module = nn.Identity()
        self.temporal: TemporalEncoder | None = None
        if config.temporal is not None:
            self.project = make_projection(self.step_dim, config.temporal)
            self.temporal = TemporalEncoder(config.temporal, n_obs_steps)
            self.step_dim = self.temporal.dim

    def image_encoder(self, camera: str) -> ImageEncoder:
        """The encoder of a camera, by its full key."""
        encoder = self.image_encoders[SHARED if self.config.share_cameras else camera.replace(".", "/")]
        assert isinstance(encoder, ImageEncoder)
        return encoder

    def forward(
        self,
        obs: Mapping[str, Any],
        crops: Mapping[str, Tensor] | None = None,
        memory: Memory | None = None,
        chain: int = 1,
    ) -> Features:
        """``obs[key]`` ``(B, To, ...)``, ``task`` an object array ``(B, To)``; ``crops[camera]`` ``(B, To, 2)`` in
        [0, 1), centred when absent.

        Returns ``vector`` ``(B, To * step_dim)``, time-major, and ``tokens`` ``(B, To, step_dim)``.  With a temporal
        part, each ``chain`` neighbouring rows are a chain, ``memory`` is that of the chains, and ``extras`` hold
        ``memory`` (the state after each row) and ``gate``; with goals also ``goal`` ``(B, G, step_dim)``.
        """
        parts = []
        for camera in self.cameras:
            images = obs[camera.key]
            where = None if crops is None else crops[camera.key].flatten(0, 1)
            encoded = self.image_encoder(camera.key)(images.flatten(0, 1), where)
            parts.append(encoded.unflatten(0, images.shape[:2]))
        if self.depth is not None:
            parts += self.depth(obs)
        if self.state is not None:
            parts.append(self.state(torch.cat([obs[f.key] for f in self.vectors], dim=-1)))
        if self.language is not None:
            parts.append(self.language.of_steps(obs[TASK]))
        tokens = self.project(parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))
        goal = {"goal": encode_goals(self, obs, crops)} if self.goals else {}
        if self.temporal is None:
            return Features(vector=tokens.flatten(1), tokens=tokens, extras=goal)
        step = self.temporal(tokens, memory, chain)
        extras = {"memory": step.state, "gate": step.gate, **goal}
        return Features(vector=step.tokens.flatten(1), tokens=step.tokens, extras=extras)

    def _slot(self, camera: FeatureSpec) -> str:
        return SHARED if self.config.share_cameras else camera.key.replace(".", "/")


def camera_config(config: EncoderConfig, camera: str) -> ImageEncoderConfig:
    """The settings of one camera: its own when given, else the common ones."""
    return config.cameras.get(camera, config.image)


def _size(feature: FeatureSpec) -> tuple[int, int]:
    return feature.shape[1], feature.shape[2]


def _check(spec: ObservationSpec, config: EncoderConfig) -> None:
    if not spec.features:
        raise ConfigError("the observation spec is empty: nothing to encode")
    for feature in spec.features:
        if feature.kind not in SUPPORTED:
            raise ConfigError(f"{feature.key}: {feature.kind.value} observations have no encoder; leave the key out")
        if feature.kind is FeatureKind.STATE and len(feature.shape) != 1:
            raise ConfigError(f"{feature.key}: expected a vector shape (D,), got {feature.shape}")
        if feature.kind is FeatureKind.POSE and depth_key(feature.key) not in spec:
            raise ConfigError(f"{feature.key}: nothing reads it without {depth_key(feature.key)}; leave the key out")
    cameras = [f.key for f in spec.of_kind(FeatureKind.IMAGE)]
    for key in config.cameras:
        if key not in cameras:
            raise ConfigError(f"encoder.cameras names '{key}', which is not observed" + did_you_mean(key, cameras))
    sizes = {_size(f) if config.image.resize is None else config.image.resize for f in spec.of_kind(FeatureKind.IMAGE)}
    if config.share_cameras and (config.cameras or len(sizes) > 1):
        raise ConfigError("share_cameras needs equal image sizes and no settings of single cameras; set image.resize")
