"""Rotary position codes for points in space: attention logits depend on differences of positions only.

Source: 3D Diffuser Actor (Ke et al. 2024, arXiv 2402.10885), section 5.5 of our spec; rotary codes are Su et al. 2021
(arXiv 2104.09864).  Differs: base and coordinate scale can be tuned.  With base 10000 and coordinates in [-1, 1] most
channel pairs turn by less than 0.1 rad over the whole workspace; a base of 100 spreads them better.
Exact translation invariance needs an even number of channels a head, or a pair straddles two heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError


class RotaryCode(NamedTuple):
    """Cosines and sines of the angles, each value twice (once a channel of the pair), ``(B, N, C)``."""

    cos: Tensor
    sin: Tensor

    def gather(self, index: Tensor) -> RotaryCode:
        """The codes of the tokens ``index`` ``(B, k)``."""
        return RotaryCode(*(take_tokens(part, index) for part in self))

    def cat(self, other: RotaryCode) -> RotaryCode:
        """These tokens followed by others."""
        return RotaryCode(torch.cat((self.cos, other.cos), 1), torch.cat((self.sin, other.sin), 1))


def check_rotary_width(dim: int, heads: int, straddle: bool = False) -> None:
    """Raise ``ConfigError`` unless ``dim`` channels hold pairs for three axes and pairs stay inside their heads.

    ``straddle`` accepts pairs across heads (the released width of 120), which costs translation invariance.
    """
    if dim % 6 or dim % heads:
        raise ConfigError(f"embed_dim={dim} must be a multiple of 6 and of heads={heads}; use e.g. 48, 96 or 192")
    if (dim // heads) % 2 and not straddle:
        raise ConfigError(
            f"embed_dim={dim} with {heads} heads: {dim // heads} channels a head is odd, so rotary pairs straddle "
            "heads and attention is no longer invariant to translation; use e.g. 48, 96 or 192, or set parity"
        )


@torch.no_grad()
def rotary_code(positions: Tensor, dim: int, base: float = 10_000.0, scale: float = 1.0) -> RotaryCode:
    """Code of points ``(B, N, 3)`` for ``dim`` channels, without gradient.

    A third of the channels belongs to each axis; pair i of d channels turns by ``scale * p * base^(-2i/d)``.
    """
    third = dim // 3
    exponent = torch.arange(0, third, 2, device=positions.device, dtype=positions.dtype) / third
    angles = (positions * scale).unsqueeze(-1) * base**-exponent  # (B, N, 3, third / 2)
    angles = angles.repeat_interleave(2, dim=-1).flatten(-2)
    return RotaryCode(angles.cos(), angles.sin())


def rotate(x: Tensor, code: RotaryCode) -> Tensor:
    """Turn each channel pair ``(a, b)`` of ``x`` ``(B, N, C)``: ``(a cos - b sin, b cos + a sin)``."""
    pairs = x.unflatten(-1, (-1, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return x * code.cos + turned * code.sin


def take_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Rows of ``x`` ``(B, N, C)`` at ``index`` ``(B, k)``, ``(B, k, C)``."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
