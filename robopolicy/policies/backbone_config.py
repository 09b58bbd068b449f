"""Sizes of the denoising networks that heads may share (no torch here: the command line reads these classes)."""

from __future__ import annotations

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError


def check_attention(n_layer: int, n_head: int, n_emb: int, pairs: int = 2) -> None:
    """Raise ``ConfigError`` unless blocks of ``n_head`` heads fit ``n_emb``, a head's width a multiple of ``pairs``."""
    if min(n_layer, n_head, n_emb) < 1:
        raise ConfigError("n_layer, n_head and n_emb must be >= 1")
    if n_emb % (pairs * n_head):
        unit = f"n_head={n_head}" if pairs == 1 else f"{pairs} * n_head={pairs * n_head}"
        raise ConfigError(f"n_emb={n_emb} must be a multiple of {unit}")


def check_dropout(**shares: float) -> None:
    """Raise ``ConfigError`` naming the dropout probability that is not in [0, 1)."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"{name}: dropout must be in [0, 1), got {share}")


def check_time_embedding(step_embed_dim: int) -> None:
    """Raise ``ConfigError`` unless a sinusoid fits ``step_embed_dim`` channels."""
    if step_embed_dim < 4 or step_embed_dim % 2:
        raise ConfigError(f"step_embed_dim must be even and >= 4, got {step_embed_dim}")


@config_dataclass
class UnetConfig:
    """Size of the 1-D U-Net."""

    down_dims: tuple[int, ...] = (256, 512, 1024)
    kernel_size: int = 5
    n_groups: int = 8
    step_embed_dim: int = 256
    cond_predict_scale: bool = True
    """FiLM with scale and bias; bias only when false."""

    def __post_init__(self) -> None:
        if not self.down_dims or min(self.down_dims) < 1:
            raise ConfigError(f"down_dims must hold positive widths, got {self.down_dims}")
        if self.n_groups < 1 or any(d % self.n_groups for d in self.down_dims):
            raise ConfigError(
                f"every entry of down_dims {self.down_dims} must be a multiple of n_groups={self.n_groups}"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd and >= 1, got {self.kernel_size}")
        check_time_embedding(self.step_embed_dim)


@config_dataclass
class TransformerConfig:
    """Size of the transformer."""

    n_layer: int = 8
    n_head: int = 4
    n_emb: int = 256
    p_drop_emb: float = 0.0
    p_drop_attn: float = 0.3
    causal_attn: bool = True
    n_cond_layers: int = 0

    def __post_init__(self) -> None:
        check_attention(self.n_layer, self.n_head, self.n_emb)
        check_dropout(p_drop_emb=self.p_drop_emb, p_drop_attn=self.p_drop_attn)
        if self.n_cond_layers < 0:
            raise ConfigError(f"n_cond_layers must be >= 0, got {self.n_cond_layers}")


@config_dataclass
class DitConfig:
    """Size of the diffusion transformer (adaLN-Zero); LeRobot's multi-task DiT has 6, 8 and 512."""

    n_layer: int = 4
    n_head: int = 4
    n_emb: int = 256
    step_embed_dim: int = 256
    """Channels of the time embedding."""
    dropout: float = 0.1
    positions: bool = False
    """Add learned positions to the rotary ones."""

    def __post_init__(self) -> None:
        check_attention(self.n_layer, self.n_head, self.n_emb)
        check_dropout(dropout=self.dropout)
        check_time_embedding(self.step_embed_dim)


@config_dataclass
class GPTConfig:
    """Size of the interleaved transformer of BESO."""

    n_layer: int = 6
    n_head: int = 6
    n_emb: int = 360
    p_drop_attn: float = 0.3
    p_drop_resid: float = 0.0

    def __post_init__(self) -> None:
        check_attention(self.n_layer, self.n_head, self.n_emb, pairs=1)
        check_dropout(p_drop_attn=self.p_drop_attn, p_drop_resid=self.p_drop_resid)
