"""Networks of critics: an ensemble as one batched product a layer, and the tanh-Gaussian actor.

Sources: V-GPS's heads (Xavier-uniform weights, zero biases), RLPD (LayerNorm before the activation), SAC's actor.
Differs: all members compute together, and what the observation adds to the first layer is computed once however many
actions are asked about.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}
LOG_STD = (-5.0, 2.0)


class EnsembleLinear(nn.Module):
    """``members`` linear layers; ``(E, N, inputs)``, or ``(N, inputs)`` for all alike, to ``(E, N, outputs)``."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        bound = math.sqrt(6.0 / (inputs + outputs))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """``frozen`` lets gradients reach ``x`` but not the weights."""
        weight, bias = (self.weight.detach(), self.bias.detach()) if frozen else (self.weight, self.bias)
        if x.ndim == 2:
            x = x.expand(len(weight), -1, -1)
        return torch.baddbmm(bias, x, weight)


class EnsembleNorm(nn.Module):
    """LayerNorm over the last dimension with each member's own gain and shift."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(members, 1, width))
        self.shift = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """``(E, N, width)`` likewise."""
        gain, shift = (self.gain.detach(), self.shift.detach()) if frozen else (self.gain, self.shift)
        return F.layer_norm(x, x.shape[-1:]) * gain + shift


class EnsembleMLP(nn.Module):
    """Values of observation features and, where ``action_dim`` is not 0, of several actions each."""

    def __init__(
        self,
        members: int,
        feature_dim: int,
        action_dim: int,
        hidden: tuple[int, ...],
        outputs: int = 1,
        activation: str = "relu",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.members, self.feature_dim, self.activation = members, feature_dim, ACTIVATIONS[activation]
        widths = (feature_dim + action_dim, *hidden, outputs)
        self.layers = nn.ModuleList(EnsembleLinear(members, a, b) for a, b in pairwise(widths))
        norms = (EnsembleNorm(members, width) for width in hidden) if layer_norm else ()
        self.norms = nn.ModuleList(norms)

    def forward(self, features: Tensor, actions: Tensor | None = None, frozen: bool = False) -> Tensor:
        """``features`` ``(B, F)`` and ``actions`` ``(B, N, A)`` to ``(E, B, N, outputs)``; without actions N = 1."""
        rows, count = len(features), 1 if actions is None else actions.shape[1]
        x = self._first(features, actions, frozen)
        for i, layer in enumerate(self.layers[1:]):
            x = layer(self.activation(self.norms[i](x, frozen) if len(self.norms) else x), frozen)
        return x.reshape(self.members, rows, count, -1)

    def _first(self, features: Tensor, actions: Tensor | None, frozen: bool) -> Tensor:
        """The first layer ``(E, B * N, width)``, its two parts apart."""
        layer = self.layers[0]
        assert isinstance(layer, EnsembleLinear)
        if actions is None:
            out: Tensor = layer(features, frozen)
            return out
        if actions.shape[1] == 1:
            joined: Tensor = layer(torch.cat([features, actions[:, 0]], dim=-1), frozen)
            return joined
        weight, bias = (layer.weight.detach(), layer.bias.detach()) if frozen else (layer.weight, layer.bias)
        ours, theirs = weight[:, : self.feature_dim], weight[:, self.feature_dim :]
        seen = torch.baddbmm(bias, features.expand(self.members, -1, -1), ours)
        acted = torch.matmul(actions.flatten(0, 1), theirs).unflatten(1, actions.shape[:2])
        return (acted + seen[:, :, None]).flatten(1, 2)


class TanhActor(nn.Module):
    """Gaussian policy with state-dependent deviation, squashed by a tanh into the box ``[-bound, bound]``."""

    active: Tensor
    bound: Tensor

    def __init__(
        self,
        feature_dim: int,
        active: Tensor,
        hidden: tuple[int, ...],
        activation: str = "relu",
        *,
        layer_norm: bool = False,
        log_std: tuple[float, float] = LOG_STD,
        bound: float = 1.0,
        scaled_density: bool = False,
    ) -> None:
        """``active`` ``(A,)`` is 1 for numbers that exist and 0 for padding, which stays 0 and has no density.

        ``scaled_density``: densities on the box of half-width ``bound`` instead of that of half-width 1.
        """
        super().__init__()
        self.net = EnsembleMLP(1, feature_dim, 0, hidden, 2 * len(active), activation, layer_norm)
        self.log_std, self.scaled_density = log_std, scaled_density
        self.register_buffer("active", active.clone(), persistent=False)
        self.register_buffer("bound", torch.tensor(float(bound)), persistent=False)

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation ``(B, 1, A)`` before the tanh."""
        mean, log_std = self.net(features)[0].chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std)

    def mode(self, features: Tensor) -> Tensor:
        """``bound * tanh(mean)``, ``(B, 1, A)``."""
        return self._boxed(self.distribution(features)[0])

    def forward(self, features: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``(B, N, A)`` inside the box and log-densities ``(B, N)`` for unit-normal ``eps`` ``(B, N, A)``."""
        mean, log_std = self.distribution(features)
        raw = mean + log_std.exp() * eps
        normal = -0.5 * eps.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) in the form that does not cancel.
        squash = 2 * (math.log(2.0) - raw - F.softplus(-2 * raw))
        if self.scaled_density:
            squash = squash + self.bound.log()
        log_prob = ((normal - squash) * self.active).sum(-1)
        return self._boxed(raw), log_prob

    def _boxed(self, raw: Tensor) -> Tensor:
        return raw.tanh() * (self.active * self.bound)


class ProxyActor(TanhActor):
    """The actor that exists to give a critic actions, not to act: in (-1, 1)."""
