"""Denoising networks by the name that configurations use, built to fit a chunk and an encoder."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from robopolicy.core.errors import ConfigError
from robopolicy.nets.dit import Dit
from robopolicy.nets.dp_transformer import DPTransformer
from robopolicy.nets.gpt import DiffusionGPT
from robopolicy.nets.unet1d import ConditionalUnet1d


def make_backbone(config: Any, action_dim: int, step_dim: int, n_goals: int = 0) -> nn.Module:
    """The network of ``config.backbone``, sized by the config's section of that name.

    ``step_dim`` numbers describe each of the ``config.n_obs_steps`` observed steps.  ``n_goals`` goals of ``step_dim``
    numbers are tokens of their own for the gpt; the other networks find them appended to every observed step.
    """
    if config.backbone == "gpt":
        options = dataclasses.asdict(config.gpt)
        return DiffusionGPT(action_dim, step_dim, config.horizon, config.n_obs_steps, n_goals, **options)
    step_dim *= 1 + n_goals
    if config.backbone == "unet":
        return ConditionalUnet1d(action_dim, config.n_obs_steps * step_dim, **dataclasses.asdict(config.unet))
    if config.backbone == "transformer":
        options = dataclasses.asdict(config.transformer)
        return DPTransformer(action_dim, step_dim, config.horizon, config.n_obs_steps, **options)
    if config.backbone == "dit":
        return Dit(action_dim, config.n_obs_steps * step_dim, config.horizon, **dataclasses.asdict(config.dit))
    raise ConfigError(f"unknown backbone {config.backbone!r}; expected unet, transformer, dit or gpt")
