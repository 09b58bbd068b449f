"""Equal pairs: our Diffusion Policy and LeRobot's, same sizes, same data statistics, and the same weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from lerobot_peer import LeRobotPeer, PeerConfig
from lerobot_weights import unet_state_dict

from robopolicy.core.specs import ActionSpace, FeatureKind, FeatureSpec, FeatureStats, ObservationSpec
from robopolicy.policies.backbone_config import UnetConfig
from robopolicy.policies.base import Policy
from robopolicy.policies.diffusion_config import DiffusionConfig
from robopolicy.policies.registry import make_policy

STATE, ENVIRONMENT, IMAGE = "observation.state", "observation.environment_state", "observation.image"

# Widths of the U-Net by nickname; parameter counts are printed and equal on both sides.
SIZES = {"4M": (64, 128, 256), "17M": (128, 256, 512), "65M": (256, 512, 1024)}


@dataclass(frozen=True)
class Pair:
    """Ours and theirs, with an observation both understand."""

    ours: Policy
    theirs: LeRobotPeer
    obs: dict[str, np.ndarray]


def spec(images: bool, size: int = 96) -> ObservationSpec:
    """PushT's observations: agent position and keypoints, or agent position and camera."""
    state = FeatureSpec(STATE, (2,), FeatureKind.STATE)
    if images:
        return ObservationSpec((state, FeatureSpec(IMAGE, (3, size, size), FeatureKind.IMAGE)))
    return ObservationSpec((state, FeatureSpec(ENVIRONMENT, (18,), FeatureKind.STATE)))


def statistics(observation_spec: ObservationSpec, action_dim: int) -> dict[str, FeatureStats]:
    """Limits 0..512 for vectors, 0..1 for images: what PushT has."""

    def flat(n: int, top: float) -> FeatureStats:
        return FeatureStats((0.0,) * n, (top,) * n, (top / 2,) * n, (top / 4,) * n, 100, constant=(False,) * n)

    out = {f.key: flat(f.shape[0], 1.0 if f.kind is FeatureKind.IMAGE else 512.0) for f in observation_spec.features}
    return {**out, "action": flat(action_dim, 512.0)}


def random_batch(observation_spec: ObservationSpec, rows: int, horizon: int, action_dim: int, seed: int = 0) -> dict:
    """A physical training batch with LeRobot's keys."""
    rng = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    for f in observation_spec.features:
        top = 1.0 if f.kind is FeatureKind.IMAGE else 512.0
        batch[f.key] = (rng.random((rows, 2, *f.shape)) * top).astype(np.float32)
    batch["action"] = (rng.random((rows, horizon, action_dim)) * 512).astype(np.float32)
    batch["action_is_pad"] = np.zeros((rows, horizon), bool)
    return batch


def make_pair(
    dims: tuple[int, ...], steps: int, images: bool = False, crop: int | None = None, share_weights: bool = True
) -> Pair:
    """Build both sides; state-only pairs share every weight (DDIM, leading steps, clip 1: what diffusers does)."""
    observation_spec = spec(images)
    stats = statistics(observation_spec, 2)
    encoder = {"crop": (crop, crop)} if images and crop else {}
    config = DiffusionConfig(
        unet=UnetConfig(down_dims=dims, step_embed_dim=128),
        num_inference_steps=steps,
        spacing="leading",
        encoder={"image": encoder} if encoder else {},
    )
    ours = make_policy(config, observation_spec, ActionSpace(dim=2), 10.0, stats)
    peer = PeerConfig(
        down_dims=dims,
        step_embed_dim=128,
        sampler="DDIM",
        num_inference_steps=steps,
        crop_shape=(crop, crop) if images and crop else None,
    )
    theirs = LeRobotPeer(peer, observation_spec, ours.action_spec, stats)
    if share_weights and not images:
        ours.net.load_state_dict(unet_state_dict(theirs.policy.diffusion.unet.state_dict()))
    rng = np.random.default_rng(1)
    obs = {
        f.key: rng.random((1, 2, *f.shape)).astype(np.float32) * (1 if f.key == IMAGE else 512)
        for f in observation_spec.features
    }
    return Pair(ours.eval(), theirs, obs)


def parity(pair: Pair, seed: int = 3) -> float:
    """Largest difference of the executed actions from equal weights and noise, in normalised units."""
    keys = [(seed, 0)]
    a = pair.ours.act(pair.obs, noise_keys=keys).executable
    b = pair.theirs.act(pair.obs, noise_keys=keys).executable
    return float(np.abs(a - b).max() / 256.0)


def count(module: torch.nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
