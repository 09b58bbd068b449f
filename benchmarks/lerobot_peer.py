"""LeRobot's own DiffusionPolicy, wrapped so that the same data, seeds and environments drive it and us.

Nothing of LeRobot is changed: its configuration class, its modelling code, its normalisation processors and its
optimiser and schedule presets are used as they are.  Our loader feeds it (which is generous: its own loader is
slower, see ``bench_data.py``), and our evaluation queue rolls it out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.seeding import generator
from robopolicy.core.specs import ActionSpec, FeatureKind, FeatureStats, ObservationSpec


@dataclass(frozen=True)
class PeerConfig:
    """What must be equal on both sides of a comparison."""

    down_dims: tuple[int, ...] = (64, 128, 256)
    step_embed_dim: int = 64
    horizon: int = 16
    n_obs_steps: int = 2
    n_action_steps: int = 8
    lr: float = 1e-4
    weight_decay: float = 1e-6
    warmup_steps: int = 500
    sampler: str = "DDPM"
    num_inference_steps: int | None = None
    crop_shape: tuple[int, int] | None = None


def _features(observation_spec: ObservationSpec, action_dim: int) -> tuple[dict[str, Any], dict[str, Any]]:
    from lerobot.configs.types import FeatureType, PolicyFeature

    inputs = {}
    for f in observation_spec.features:
        if f.kind is FeatureKind.IMAGE:
            kind = FeatureType.VISUAL
        else:
            kind = FeatureType.ENV if f.key.endswith("environment_state") else FeatureType.STATE
        inputs[f.key] = PolicyFeature(kind, f.shape)
    return inputs, {"action": PolicyFeature(FeatureType.ACTION, (action_dim,))}


def _stats(stats: Mapping[str, FeatureStats], observation_spec: ObservationSpec) -> dict[str, dict[str, Tensor]]:
    out = {}
    for key, s in stats.items():
        image = key in observation_spec and observation_spec[key].kind is FeatureKind.IMAGE
        shape = (-1, 1, 1) if image else (-1,)
        out[key] = {
            n: torch.tensor(getattr(s, n), dtype=torch.float32).reshape(shape) for n in ("min", "max", "mean", "std")
        }
    return out


class LeRobotPeer:
    """The peer with the two faces a comparison needs: ``loss(batch)`` and ``act(obs, noise_keys)``."""

    def __init__(
        self,
        config: PeerConfig,
        observation_spec: ObservationSpec,
        action_spec: ActionSpec,
        stats: Mapping[str, FeatureStats],
    ) -> None:
        from lerobot.configs.types import NormalizationMode
        from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
        from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
        from lerobot.policies.factory import make_pre_post_processors

        inputs, outputs = _features(observation_spec, action_spec.dim)
        self.config = DiffusionConfig(
            input_features=inputs,
            output_features=outputs,
            n_obs_steps=config.n_obs_steps,
            horizon=config.horizon,
            n_action_steps=config.n_action_steps,
            down_dims=config.down_dims,
            diffusion_step_embed_dim=config.step_embed_dim,
            noise_scheduler_type=config.sampler,
            num_inference_steps=config.num_inference_steps,
            crop_shape=config.crop_shape,
            # Its default leaves the environment state in pixels, which would cripple it here: scale that too.
            normalization_mapping={
                "VISUAL": NormalizationMode.MEAN_STD,
                "STATE": NormalizationMode.MIN_MAX,
                "ENV": NormalizationMode.MIN_MAX,
                "ACTION": NormalizationMode.MIN_MAX,
            },
            optimizer_lr=config.lr,
            optimizer_weight_decay=config.weight_decay,
            scheduler_warmup_steps=config.warmup_steps,
            device="cpu",
        )
        self.observation_spec, self.action_spec = observation_spec, action_spec
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.policy = DiffusionPolicy(self.config)
            self.pre, self.post = make_pre_post_processors(self.config, dataset_stats=_stats(stats, observation_spec))

    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.policy.parameters() if p.requires_grad)

    def optimizer(self, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """LeRobot's own optimiser and schedule presets for a run of ``steps``."""
        optimizer = self.config.get_optimizer_preset().build(self.policy.get_optim_params())
        return optimizer, self.config.get_scheduler_preset().build(optimizer, steps)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean loss of a physical batch with LeRobot's keys."""
        return self.policy.forward(self.pre(dict(batch)))[0]

    def reset(self) -> None:
        """Forget the observation queue (the adapter keeps none)."""

    @torch.inference_mode()
    def act(
        self, obs: Mapping[str, Any], noise_keys: Sequence[Sequence[int]] | None = None, observed_at: Any = 0.0
    ) -> ActionChunk:
        """Physical observations ``(B, n_obs_steps, ...)`` to a chunk; only the executed slice is filled in."""
        self.policy.eval()
        batch = {k: torch.as_tensor(np.asarray(obs[k])) for k in self.observation_spec.keys}
        batch = {k: v.float() / 255.0 if v.dtype == torch.uint8 else v.float() for k, v in batch.items()}
        batch = self.pre(batch)
        images = [batch[f.key] for f in self.observation_spec.of_kind(FeatureKind.IMAGE)]
        if images:
            batch["observation.images"] = torch.stack(images, dim=-4)
        rows = len(next(iter(obs.values())))
        noise = None
        if noise_keys is not None:
            shape = (self.action_spec.horizon, self.action_spec.dim)
            noise = torch.from_numpy(
                np.stack([generator("policy", *k).standard_normal(shape, np.float32) for k in noise_keys])
            )
            torch.manual_seed(int(noise_keys[0][-1]))  # DDPM also draws inside the scheduler
        actions = self.post(self.policy.diffusion.generate_actions(batch, noise=noise))
        full = np.zeros((rows, self.action_spec.horizon, self.action_spec.dim), np.float32)
        full[:, self.action_spec.exec_slice] = actions.numpy()
        return ActionChunk.stamped(full, self.action_spec, observed_at)
