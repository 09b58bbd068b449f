"""Pre-norm transformer blocks: multi-head attention, perceptron, encoder and decoder layer (Xiong 2020, 2002.04745).

Same functions as torch's ``TransformerDecoderLayer(norm_first=True)``; written out so that keys and values can be
computed once per chunk, which torch's layers do not allow.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError


class Attention(nn.Module):
    """Multi-head attention with one projection for queries and one for keys and values."""

    def __init__(self, dim: int, n_head: int, dropout: float) -> None:
        super().__init__()
        if dim % n_head:
            raise ConfigError(f"n_head: {n_head} does not divide n_emb={dim}; choose a divisor")
        self.n_head, self.dropout = n_head, dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def heads(self, x: Tensor) -> Tensor:
        """``(N, L, dim) -> (N, n_head, L, dim / n_head)``."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from ``x (N, L, dim)`` to ``memory (N, S, dim)``; ``mask (L, S)`` is True where allowed."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(
            self.heads(self.query(x)),
            self.heads(key),
            self.heads(value),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """``Linear(d, 4d) -> GELU -> dropout -> Linear(4d, d)``; ``ratio`` replaces the 4."""

    def __init__(self, dim: int, dropout: float, ratio: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(dim, ratio * dim)
        self.drop = nn.Dropout(dropout)
        self.down = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Token-wise ``(..., dim) -> (..., dim)``."""
        out: Tensor = self.down(self.drop(F.gelu(self.up(x))))
        return out


class TanhFeedForward(FeedForward):
    """``FeedForward`` with the tanh form of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Token-wise ``(..., dim) -> (..., dim)``."""
        out: Tensor = self.down(self.drop(F.gelu(self.up(x), approximate="tanh")))
        return out


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and perceptron with residuals."""

    def __init__(self, dim: int, n_head: int, dropout: float, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, n_head, dropout)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, dropout, mlp_ratio)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(N, L, dim) -> (N, L, dim)``."""
        h = self.norm_self(x)
        x = x + self.drop(self.self_attention(h, h, mask))
        out: Tensor = x + self.drop(self.mlp(self.norm_mlp(x)))
        return out


class DecoderLayer(EncoderLayer):
    """An encoder layer with cross-attention to a memory between self-attention and perceptron."""

    def __init__(self, dim: int, n_head: int, dropout: float, mlp_ratio: int = 4) -> None:
        super().__init__(dim, n_head, dropout, mlp_ratio)
        self.norm_cross = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, n_head, dropout)

    def forward(  # type: ignore[override]
        self, x: Tensor, memory: Tensor, mask: Tensor | None, memory_mask: Tensor | None
    ) -> Tensor:
        """``(N, L, dim), (N, S, dim) -> (N, L, dim)``."""
        h = self.norm_self(x)
        x = x + self.drop(self.self_attention(h, h, mask))
        x = x + self.drop(self.cross_attention(self.norm_cross(x), memory, memory_mask))
        out: Tensor = x + self.drop(self.mlp(self.norm_mlp(x)))
        return out
