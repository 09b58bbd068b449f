"""Shape checks that every denoising network makes at its door, so that torch never has to complain."""

from __future__ import annotations

from torch import Tensor

from robopolicy.core.errors import ConfigError


def check_chunk(x: Tensor, input_dim: int, whose: str) -> None:
    """Raise ``ConfigError`` unless ``x`` is ``(N, H, input_dim)``."""
    if x.ndim != 3 or x.shape[-1] != input_dim:
        raise ConfigError(f"{whose} input: expected (N, H, {input_dim}), got {tuple(x.shape)}")


def check_condition(cond: Tensor | None, want: tuple[int, ...], whose: str, option: str) -> None:
    """Raise ``ConfigError`` unless ``cond`` has shape ``want``; a width of 0 wants none.  ``option`` sets the width."""
    got = None if cond is None else tuple(cond.shape)
    expected = want if want[-1] else None
    if got != expected:
        raise ConfigError(f"{whose} condition: expected {expected}, got {got}; check {option}")
