"""Attention between points in space, modulated by a conditioning vector (post-norm).

Source: 3D Diffuser Actor (Ke et al. 2024), section 5.4 of our spec; the modulation is AdaLN of DiT (Peebles & Xie 2023)
started at zero.  Queries are modulated, keys and values never are, so they can be computed once per observation.
Differs: text is attended to row by row of a batch (the released code mixes rows) and its padding can be masked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.nets.attention import Attention
from robopolicy.nets.rotary3d import RotaryCode, rotate


class KeysValues(NamedTuple):
    """What is attended to, split into heads: ``(B, heads, S, C / heads)`` each."""

    key: Tensor
    value: Tensor


class AdaLN(nn.Module):
    """``x (1 + s) + b`` with ``(s, b)`` linear in ``SiLU(z)``; the identity at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, 2 * dim)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """``x (B, L, C)``, ``z (B, C)``."""
        scale, shift = self.project(F.silu(z)).unsqueeze(1).chunk(2, dim=-1)
        return torch.addcmul(x + shift, x, scale)


class RelativeAttention(Attention):
    """Multi-head attention whose queries and keys are turned by rotary codes; without codes it is the plain one."""

    def keys_values(self, memory: Tensor, code: RotaryCode | None = None) -> KeysValues:
        """Of tokens ``(B, S, C)``; values are not turned."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return KeysValues(self.heads(key if code is None else rotate(key, code)), self.heads(value))

    def attend(
        self, x: Tensor, memory: KeysValues, code: RotaryCode | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """From ``x (B, L, C)``; ``mask``, broadcast to ``(B, heads, L, S)``, is True where allowed."""
        query = self.query(x)
        query = self.heads(query if code is None else rotate(query, code))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, *memory, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class AttentionLayer(nn.Module):
    """``LN(x + attention(AdaLN(x; z), memory))``; ``modulated=False`` leaves AdaLN out."""

    def __init__(self, dim: int, heads: int, modulated: bool = True) -> None:
        super().__init__()
        self.attention = RelativeAttention(dim, heads, dropout=0.0)
        self.norm = nn.LayerNorm(dim)
        self.modulate = AdaLN(dim) if modulated else None

    def forward(
        self,
        x: Tensor,
        memory: KeysValues,
        z: Tensor | None = None,
        code: RotaryCode | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """``x (B, L, C)``, ``z (B, C)``; ``memory`` comes from ``attention.keys_values``."""
        query = x if self.modulate is None or z is None else self.modulate(x, z)
        out: Tensor = self.norm(x + self.attention.attend(query, memory, code, mask))
        return out


class FeedForwardLayer(nn.Module):
    """``LN(x' + W2 ReLU(W1 x'))`` with ``x' = AdaLN(x; z)``; the hidden width is that of the tokens."""

    def __init__(self, dim: int, modulated: bool = True) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for linear in (self.up, self.down):
            nn.init.xavier_uniform_(linear.weight)
        self.norm = nn.LayerNorm(dim)
        self.modulate = AdaLN(dim) if modulated else None

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """``x (B, L, C)``, ``z (B, C)``."""
        x = x if self.modulate is None or z is None else self.modulate(x, z)
        out: Tensor = self.norm(x + self.down(F.relu(self.up(x))))
        return out


class PointBlock(nn.Module):
    """Attention to points and a feed-forward layer; ``text`` puts cross-attention to text in front."""

    def __init__(self, dim: int, heads: int, modulated: bool = True, text: bool = False) -> None:
        super().__init__()
        self.text = AttentionLayer(dim, heads) if text else None
        self.attend = AttentionLayer(dim, heads, modulated)
        self.feed = FeedForwardLayer(dim, modulated)

    def keys_values(self, memory: Tensor, code: RotaryCode) -> KeysValues:
        """Of the points attended to."""
        return self.attend.attention.keys_values(memory, code)

    def cross(
        self,
        x: Tensor,
        memory: KeysValues,
        code: RotaryCode,
        z: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from ``x`` to other points."""
        out: Tensor = self.feed(self.attend(x, memory, z, code, mask), z)
        return out

    def itself(
        self, x: Tensor, code: RotaryCode, z: Tensor, text: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Self-attention of ``x``, after cross-attention to ``text`` ``(B, S, C)`` where the block has one."""
        if self.text is not None and text is not None:
            x = self.text(x, self.text.attention.keys_values(text), z, mask=mask)
        return self.cross(x, self.keys_values(x, code), code, z)


class TextLayer(nn.Module):
    """Post-norm cross-attention to text and (``feed``) a perceptron four times as wide, with dropout; no positions."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.1, feed: bool = True) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        self.up = nn.Linear(dim, 4 * dim) if feed else None
        self.down = nn.Linear(4 * dim, dim) if feed else None
        self.norm_feed = nn.LayerNorm(dim) if feed else None

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None = None, feed: bool = True) -> Tensor:
        """``x (B, L, C)``, ``text (B, S, C)``; ``mask`` as in ``RelativeAttention``."""
        x = self.norm(x + self.drop(self.attention(x, text, mask)))
        if feed and self.up is not None and self.down is not None and self.norm_feed is not None:
            x = self.norm_feed(x + self.drop(self.down(self.drop(F.relu(self.up(x))))))
        return x
