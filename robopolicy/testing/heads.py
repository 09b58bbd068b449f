"""Tiny policies of every head, on every backbone, with every kind of observation: the rows of the test matrix.

``tiny_head("flow", "dit", "image")`` is a flow policy of a few thousand parameters that reads a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from robopolicy.core.specs import ACTION, STATE, ActionSpace, ChannelKind, FeatureKind, ObservationSpec
from robopolicy.encoders.config import EncoderConfig, TemporalConfig
from robopolicy.policies.base import Policy
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.testing.tiny import TINY_ENCODER, TINY_TRANSFORMER, TINY_UNET, tiny_spec, unit_stats

# Backbones by head; those of diffuser_actor_3d are its two modes.
BACKBONES: Mapping[str, tuple[str, ...]] = {
    "diffusion": ("unet", "transformer"),
    "flow": ("unet", "transformer", "dit"),
    "beso": ("gpt", "transformer", "unet"),
    "ebt": ("transformer", "unet"),
    "seed_policy": ("unet", "transformer"),
    "diffuser_actor_3d": ("trajectory", "keypose"),
}
SIZE = (32, 32)
SPECS: Mapping[str, ObservationSpec] = {
    "state": tiny_spec(3),
    "image": tiny_spec(0, {"front": SIZE}),
    "hybrid": tiny_spec(3, {"front": SIZE, "wrist": (24, 40)}),
    "depth": tiny_spec(3, {"front": SIZE}, {"front": SIZE}),
    "language": tiny_spec(3, language=True),
    "memory": tiny_spec(3),
    "goal": tiny_spec(3),
}
TINY_MEMORY = TemporalConfig(num_state=4, dim=16, depth=1, heads=2, max_chain=3)
TINY_DIT = {"n_layer": 2, "n_head": 2, "n_emb": 16}
TINY_GPT = {"n_layer": 2, "n_head": 2, "n_emb": 16, "p_drop_attn": 0.1}
TINY_ENERGY = {"n_layer": 2, "n_obs_layer": 1, "n_head": 2, "n_emb": 16}
TINY_SCENE = {"backbone": "tiny", "stride": 8, "channels": [8, 8, 16]}
TINY_ACTOR = {
    "embed_dim": 48, "fps_factor": 2, "scene_layers": 1, "history_layers": 1, "cross_layers": 1, "self_layers": 1,
    "branch_layers": 1, "denoise_steps": 20,
}  # fmt: skip


def legal(head: str, kind: str) -> bool:
    """Whether a head reads this kind of observation at all (its own error says so otherwise)."""
    if head == "diffuser_actor_3d":
        return kind == "depth"
    if kind == "goal":
        return head == "beso"
    return kind == "memory" if head == "seed_policy" else True


def rows() -> Iterator[tuple[str, str, str]]:
    """Every legal ``(head, backbone, kind)``; seed_policy reads every kind, always with its memory."""
    for head, backbones in BACKBONES.items():
        for backbone in backbones:
            for kind in SPECS:
                if legal(head, kind) or (head == "seed_policy" and kind != "goal"):
                    yield head, backbone, kind


def tiny_head(head: str, backbone: str, kind: str = "state", seed: int = 0, **changes: Any) -> Policy:
    """A seeded tiny policy in evaluation mode; ``changes`` are keys of its configuration."""
    spec = SPECS[kind]
    space = ACTOR_SPACE if head == "diffuser_actor_3d" else ActionSpace(2, low=(-1.0, -1.0), high=(1.0, 1.0))
    stats = {f.key: unit_stats(f.shape[0]) for f in spec.of_kind(FeatureKind.STATE)}
    stats[ACTION] = unit_stats(space.dim)
    config = policy_config({**tiny_options(head, backbone, kind), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_policy(config, spec, space, 10.0, stats).eval()


ACTOR_SPACE = ActionSpace(
    5, kinds=(ChannelKind.EUCLIDEAN,) * 5, mode="absolute", frame="base", low=(-1.0,) * 5, high=(1.0,) * 5
)


def tiny_options(head: str, backbone: str, kind: str) -> dict[str, Any]:
    """The configuration of ``tiny_head`` as plain data."""
    encoder = TINY_ENCODER
    if kind == "memory" or head == "seed_policy":
        encoder = EncoderConfig(**{**_fields(TINY_ENCODER), "temporal": TINY_MEMORY})
    options: dict[str, Any] = {
        "type": head,
        "n_obs_steps": 2,
        "horizon": 8,
        "n_action_steps": 4,
        "observation_keys": list(SPECS[kind].keys),
        "encoder": encoder,
    }
    if head == "diffuser_actor_3d":
        return {**options, **TINY_ACTOR, "mode": backbone, "scene": TINY_SCENE, "num_inference_steps": 4}
    nets: dict[str, Any] = {"unet": TINY_UNET, "transformer": TINY_TRANSFORMER, "dit": TINY_DIT, "gpt": TINY_GPT}
    options |= {"backbone": backbone, backbone: nets[backbone]}
    if head == "ebt":
        # The step of trained networks throws chunks to the bounds here, where no rule could tell one from another.
        options["refine"] = {"step_size": 30.0}
        return options | ({"transformer": TINY_ENERGY} if backbone == "transformer" else {})
    if kind == "goal":
        options["goal_keys"] = [STATE]
    return {**options, "num_inference_steps": 4}


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in type(config).__pydantic_fields__}
