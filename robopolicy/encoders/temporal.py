"""What stands between the observed steps and a head that has a memory: a projection, then the recurrence over chains.

A chain is a run of windows, each one plan after the one before.  Windows of a chain are encoded together and the
recurrence runs over them in order, which gives the same numbers as planning step by step.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.encoders.config import TemporalConfig
from robopolicy.encoders.memory import Memory
from robopolicy.encoders.sega import Sega, Step


def make_projection(inputs: int, config: TemporalConfig) -> nn.Sequential:
    """``inputs`` numbers a step to a token: (Linear, GELU, dropout for a hidden layer,) Linear, LayerNorm."""
    widths = (inputs, *([] if config.proj_hidden is None else [config.proj_hidden]), config.dim)
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.GELU(), nn.Dropout(config.proj_dropout)] if layers else []
        layers.append(nn.Linear(into, out))
    return nn.Sequential(*layers, nn.LayerNorm(config.dim))


class TemporalEncoder(nn.Module):
    """The recurrence over chains of windows; ``dim`` is the width of its tokens."""

    def __init__(self, config: TemporalConfig, n_obs_steps: int) -> None:
        super().__init__()
        self.config, self.dim = config, config.dim
        self.sega = Sega(config, n_obs_steps)
        if config.frozen:
            self.sega.requires_grad_(False)

    @property
    def blank(self) -> Tensor:
        """A state ``(Ns, D)`` of the right shape, dtype and device."""
        return self.sega.initial.detach()

    def forward(self, tokens: Tensor, memory: Memory | None = None, chain: int = 1) -> Step:
        """``tokens`` ``(B * chain, To, D)``, windows of a chain next to each other; ``memory`` of ``B`` chains.

        Every part of the result is ``(B * chain, ...)``: what each window gives, and the state after it.  Gradients
        reach back ``tbptt`` windows at most.
        """
        if chain < 1 or len(tokens) % chain:
            raise ConfigError(f"{len(tokens)} windows are no chains of {chain}")
        windows = tokens.unflatten(0, (-1, chain)).unbind(1)
        steps: list[Step] = []
        for i, window in enumerate(windows):
            step: Step = self.sega(window, memory)
            steps.append(step)
            cut = self.config.tbptt is not None and (i + 1) % self.config.tbptt == 0
            memory = Memory(step.state.detach() if cut else step.state, _none_fresh(step.state))
        parts = [torch.stack(part, 1).flatten(0, 1) for part in zip(*steps, strict=True)]
        return Step(*parts)


def _none_fresh(state: Tensor) -> Tensor:
    return torch.zeros(len(state), dtype=torch.bool, device=state.device)
