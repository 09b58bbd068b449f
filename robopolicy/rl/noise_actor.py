"""The part of DSRL that is deployed: observations to the numbers of a latent, and its files.

Source: DSRL (arXiv 2506.15799): a tanh-Gaussian ``pi_W(w | s)`` in the box ``[-b, b]``.  Differs: the encoder is that
of the policies, state and images alike, or the frozen base's; the normaliser is the actor's own and saved with it;
the decoder it learned through is saved too, and another one is refused.

A directory holds ``model.safetensors``, ``config.yaml``, ``specs.json``, ``stats.json`` and the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.core.configs import build_config
from robopolicy.core.errors import CheckpointError, ConfigError
from robopolicy.core.io import atomic_directory, verify_manifest
from robopolicy.core.specs import (
    ACTION,
    ActionSpace,
    FeatureStats,
    ObservationSpec,
    observation_spec_from_dict,
    stats_from_dict,
    to_dict,
)
from robopolicy.encoders.cameras import CameraRig, recalibrated
from robopolicy.encoders.fusion import ObservationEncoder
from robopolicy.policies.io import (
    CONFIG,
    FORMAT,
    SPECS,
    STATS,
    WEIGHTS,
    load_weights,
    read_config,
    read_json,
    write_files,
)
from robopolicy.policies.normalizer import Normalizer
from robopolicy.policies.setup import select_stats
from robopolicy.rl.dsrl_config import DSRLConfig
from robopolicy.rl.networks import TanhActor
from robopolicy.wrappers.steer import base_vector
from robopolicy.wrappers.steer_config import LatentMapConfig

KIND = "noise_actor"


class NoiseActor(nn.Module):
    """``B`` observations, ``F`` features, ``L`` numbers of a latent."""

    def __init__(
        self,
        config: DSRLConfig,
        observation_spec: ObservationSpec,
        n_obs_steps: int,
        stats: Mapping[str, FeatureStats],
        dims: int,
        base_features: int = 0,
        decoder: Mapping[str, Any] | None = None,
        head: TanhActor | None = None,
        load_weights: bool = False,
    ) -> None:
        """``observation_spec`` is empty with ``features: base``, where ``base_features`` is the vector's length.

        ``dims``: L.  ``head``: the actor of a learner; a new one by default.
        """
        super().__init__()
        self.config, self.observation_spec, self.n_obs_steps = config, observation_spec, n_obs_steps
        self.decoder, self.bound, self.dims = decoder, config.bound, dims
        self.latent_map: LatentMapConfig = config.latent_map
        self.encoder: ObservationEncoder | None = None
        self.stats: Mapping[str, FeatureStats] = {}
        self.feature_dim, self.base_features = base_features, base_features
        if config.features == "own":
            modes, chosen = select_stats(_with_action(stats), observation_spec, ActionSpace(1), config.normalization)
            self.stats = {key: value for key, value in chosen.items() if key != ACTION}
            self.normalizer = Normalizer(self.stats, {key: mode for key, mode in modes.items() if key != ACTION})
            self.encoder = ObservationEncoder(observation_spec, config.encoder, load_weights, n_obs_steps)
            self.feature_dim = n_obs_steps * self.encoder.step_dim
        self.head = head if head is not None else new_head(config, self.feature_dim, dims)
        self.head.bound.fill_(self.bound)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.head.bound.device

    def set_bound(self, bound: float) -> None:
        """Choose within ``[-bound, bound]`` from now on; what the critics see keeps its unit."""
        if not bound > 0:
            raise ConfigError(f"bound must be > 0, got {bound:g}")
        self.bound = float(bound)
        self.head.bound.fill_(self.bound)

    def calibrate(self, observation_spec: ObservationSpec) -> None:
        """Take the depth cameras' calibrations from the place where the actor runs; nothing without depth."""
        self.observation_spec = recalibrated(self.observation_spec, observation_spec)
        for module in self.modules():
            if isinstance(module, CameraRig):
                module.set_cameras(self.observation_spec)

    def inputs(self, obs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The newest ``n_obs_steps`` of the actor's own keys on its device, vectors normalised."""
        inputs = {}
        for key in self.observation_spec.keys:
            value = torch.as_tensor(obs[key])[:, -self.n_obs_steps :].to(self.device, non_blocking=True)
            inputs[key] = self.normalizer.to_model(key, value.float()) if key in self.normalizer else value
        return inputs

    def encode(self, checked: Mapping[str, Any], base: Any) -> Tensor:
        """Features ``(B, F)`` of physical observations, or of the base policy's context."""
        if self.encoder is None:
            return base_vector(base)
        vector = self.encoder(self.inputs(checked)).vector
        assert isinstance(vector, Tensor)
        return vector

    def numbers(self, features: Tensor, eps: Tensor | None, bound: float) -> Tensor:
        """``(N, L)`` for unit-normal ``eps`` ``(N, L)``, or the mode for None, within ``[-bound, bound]``."""
        if features.shape[1] != self.feature_dim:
            raise ConfigError(
                f"the noise actor reads {self.feature_dim} features of the base policy, this one has "
                f"{features.shape[1]}; steer the policy it was trained on"
            )
        chosen = self.head.mode(features) if eps is None else self.head(features, eps[:, None])[0]
        return chosen[:, 0] * (bound / self.bound)


def _with_action(stats: Mapping[str, FeatureStats]) -> dict[str, FeatureStats]:
    """The statistics with one action number that nothing reads, for ``select_stats``."""
    return {**stats, ACTION: FeatureStats((-1.0,), (1.0,), (0.0,), (1.0,), 1, (-1.0,), (1.0,))}


def new_head(config: DSRLConfig, feature_dim: int, dims: int) -> TanhActor:
    """An actor as ``SACLearner`` makes it."""
    return TanhActor(
        feature_dim,
        torch.ones(dims),
        config.actor_hidden or config.hidden,
        config.activation,
        layer_norm=config.layer_norm,
        log_std=config.log_std,
        bound=config.bound,
        scaled_density=config.density == "scaled",
    )


def save_noise_actor(actor: NoiseActor, directory: str | Path) -> Path:
    """Write ``actor`` to ``directory``, which appears complete or not at all; an old one is replaced."""
    directory = Path(directory)
    specs = {
        "format": FORMAT,
        "kind": KIND,
        "observation": to_dict(actor.observation_spec),
        "n_obs_steps": actor.n_obs_steps,
        "dims": actor.dims,
        "base_features": actor.base_features,
        "bound": actor.bound,
        "decoder": actor.decoder,
    }
    with atomic_directory(directory, KIND) as aside:
        write_files(actor, aside, {"noise_actor": actor.config.variant}, specs)
    return directory


def load_noise_actor(directory: str | Path, device: str | torch.device = "cpu") -> NoiseActor:
    """The actor in ``directory``, in evaluation mode.

    Strict: raises ``CheckpointError`` for anything incomplete or altered since it was saved, and for tensors that are
    missing, left over, or of another shape.
    """
    directory = Path(directory)
    verify_manifest(directory, KIND)
    specs, stats = read_json(directory / SPECS), read_json(directory / STATS)
    config = read_config(directory / CONFIG, lambda data, where: build_config(DSRLConfig, data, where))
    try:
        actor = NoiseActor(
            config,
            observation_spec_from_dict(specs["observation"]),
            specs["n_obs_steps"],
            stats_from_dict(stats),
            specs["dims"],
            specs["base_features"],
            specs["decoder"],
        )
        actor.set_bound(specs["bound"])
    except (KeyError, TypeError, AttributeError, ConfigError) as e:
        raise CheckpointError(f"{directory}: the saved specs do not describe a noise actor ({e})") from e
    load_weights(actor, directory / WEIGHTS)
    return actor.to(device).eval()
