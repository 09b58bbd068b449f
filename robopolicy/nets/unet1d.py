"""Conditional 1-D U-Net over action chunks (Diffusion Policy, arXiv 2303.04137; Diffuser's U-Net, 2205.09991).

Same function and parameter count as the published network with global conditioning.  Differs in speed only:
``prepare``/``forward_cached`` tabulate all that does not depend on the noisy chunk and turn the short convolutions
into matrix products.  The default backbone; choose the transformer for abrupt, high-frequency actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError
from robopolicy.nets.blocks import ConvBlock, Modulation, Ops, ResidualBlock
from robopolicy.nets.checks import check_chunk, check_condition
from robopolicy.nets.embeddings import StepEmbedding, batch_times
from robopolicy.nets.ops import ChannelsFirstOps
from robopolicy.nets.packed import fingerprint
from robopolicy.nets.recorder import WeightStore
from robopolicy.nets.temporal import TapConv, TapUpsample
from robopolicy.nets.time_major import TimeMajorOps
from robopolicy.nets.unet1d_cached import PackedChannelsFirstOps, UnetCache, recorded, split_films, tabulate

# From this many chunks on, the time-major products beat torch's convolutions in training on a CPU.
TIME_MAJOR_FROM = 8


class DownLevel(nn.Module):
    """Two residual blocks, then (unless it is the last level) a stride-2 convolution."""

    def __init__(self, inputs: int, outputs: int, last: bool, **block: Any) -> None:
        super().__init__()
        self.first = ResidualBlock(inputs, outputs, **block)
        self.second = ResidualBlock(outputs, outputs, **block)
        self.resample = None if last else TapConv(outputs, outputs, 3, stride=2)


class UpLevel(nn.Module):
    """Two residual blocks on ``[x | skip]``, then a transposed convolution that doubles the length."""

    def __init__(self, inputs: int, outputs: int, **block: Any) -> None:
        super().__init__()
        self.first = ResidualBlock(2 * inputs, outputs, **block)
        self.second = ResidualBlock(outputs, outputs, **block)
        self.resample = TapUpsample(outputs)


class ConditionalUnet1d(nn.Module):
    """Denoiser ``(noisy chunk (N, H, input_dim), time, condition (N, global_cond_dim)) -> (N, H, output_dim)``.

    ``H`` must be a multiple of ``2 ** (len(down_dims) - 1)``.  ``global_cond_dim=0`` means no condition.  Set
    ``double_backward`` where gradients of gradients are needed (energies): the fast CPU path has first ones only.
    """

    cond_kind: ClassVar[Literal["vector"]] = "vector"

    def __init__(
        self,
        input_dim: int,
        global_cond_dim: int,
        down_dims: Sequence[int] = (256, 512, 1024),
        kernel_size: int = 5,
        n_groups: int = 8,
        step_embed_dim: int = 256,
        cond_predict_scale: bool = True,
        output_dim: int | None = None,
    ) -> None:
        super().__init__()
        if not down_dims:
            raise ConfigError("down_dims: expected at least one width, got none; use e.g. (256, 512, 1024)")
        self.input_dim, self.global_cond_dim = input_dim, global_cond_dim
        self.output_dim = input_dim if output_dim is None else output_dim
        self.down_dims = tuple(down_dims)
        self.step_embedding = StepEmbedding(step_embed_dim)
        block: dict[str, Any] = {
            "cond_dim": step_embed_dim + global_cond_dim,
            "kernel_size": kernel_size,
            "n_groups": n_groups,
            "scale": cond_predict_scale,
        }
        pairs = list(zip((input_dim, *self.down_dims[:-1]), self.down_dims, strict=True))
        deepest = self.down_dims[-1]
        self.down = nn.ModuleList(DownLevel(i, o, n == len(pairs) - 1, **block) for n, (i, o) in enumerate(pairs))
        self.mid = nn.ModuleList(ResidualBlock(deepest, deepest, **block) for _ in range(2))
        self.up = nn.ModuleList(UpLevel(o, i, **block) for i, o in reversed(pairs[1:]))
        self.head = ConvBlock(self.down_dims[0], self.down_dims[0], kernel_size, n_groups)
        self.inference_dtype = torch.float32
        self.double_backward = False
        self._store: WeightStore | None = None
        self.project = TapConv(self.down_dims[0], self.output_dim, 1)

    @property
    def horizon_multiple(self) -> int:
        """The chunk length must be a multiple of this."""
        return int(2 ** (len(self.down_dims) - 1))

    def check_horizon(self, horizon: int) -> None:
        """Raise ``ConfigError`` unless chunks of ``horizon`` steps can pass through every level."""
        unit = self.horizon_multiple
        if horizon < unit or horizon % unit:
            near = max(unit, unit * round(horizon / unit))
            raise ConfigError(
                f"horizon: expected a multiple of {unit} ({len(self.down_dims)} levels of down_dims), got {horizon}; "
                f"use {near} or fewer levels"
            )

    def _check_chunk(self, x: Tensor) -> None:
        check_chunk(x, self.input_dim, "U-Net")
        self.check_horizon(x.shape[1])

    def _check(self, x: Tensor, cond: Tensor | None) -> None:
        self._check_chunk(x)
        check_condition(cond, (x.shape[0], self.global_cond_dim), "U-Net", "global_cond_dim")

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Tensor:
        """Predict ``(N, H, output_dim)`` from ``x (N, H, input_dim)``, time ``t`` (scalar or ``(N,)``), ``cond``.

        Raises ``ConfigError`` naming the argument when a shape does not fit the network.
        """
        self._check(x, cond)
        vector = self.step_embedding(batch_times(t, x.shape[0], x.device))
        if cond is not None:
            vector = torch.cat((vector, cond.to(vector.dtype)), dim=-1)
        active = F.mish(vector)
        films = [block.film(active) for block in self.residual_blocks()]
        if not torch.is_grad_enabled() and self._can_record(x):
            program = recorded(self, self._current_store(), x)
            torch.cat(films, dim=1, out=program.table)
            return program(x)
        # With few chunks torch's convolutions waste less than the time-major products' bookkeeping costs.
        by_time = x.device.type == "cpu" and len(x) >= TIME_MAJOR_FROM and not self.double_backward
        ops: Ops = TimeMajorOps() if by_time else ChannelsFirstOps()
        return self.traverse(ops, x, split_films(self.residual_blocks(), films))

    def residual_blocks(self) -> list[ResidualBlock]:
        """Every block with a FiLM, in the order in which ``traverse`` meets them."""
        down, up = cast("Iterable[DownLevel]", self.down), cast("Iterable[UpLevel]", self.up)
        mid = cast("Iterable[ResidualBlock]", self.mid)
        return [*(b for d in down for b in (d.first, d.second)), *mid, *(b for u in up for b in (u.first, u.second))]

    def traverse(self, ops: Ops, x: Tensor, films: Sequence[Modulation]) -> Tensor:
        """The topology: ``x (N, H, input_dim)`` through all levels, computed by ``ops`` with given modulations."""
        film = iter(films)
        h = ops.enter(x)
        skips = []
        for down in cast("Iterable[DownLevel]", self.down):
            h = down.second(ops, down.first(ops, h, next(film)), next(film))
            skips.append(h)
            h = h if down.resample is None else ops.conv(down.resample, h)
        for block in self.mid:
            h = block(ops, h, next(film))
        for up in cast("Iterable[UpLevel]", self.up):
            h = up.first(ops, ops.cat(h, skips.pop()), next(film))
            h = ops.upsample(up.resample, up.second(ops, h, next(film)))
        return ops.leave(ops.conv(self.project, self.head(ops, h)))

    def train(self, mode: bool = True) -> ConditionalUnet1d:
        """Switch mode; a change of mode drops packed weights."""
        if mode != self.training:
            self._store = None
        super().train(mode)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the packed weights behind."""
        return {**self.__dict__, "_store": None}

    def _can_record(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and self.project.weight.dtype == torch.float32

    def _current_store(self) -> WeightStore:
        """What is derived from the weights, made anew when they, or ``inference_dtype``, have changed."""
        stamp = fingerprint(self)
        if self._store is None or self._store.stamp != stamp or self._store.dtype != self.inference_dtype:
            self._store = WeightStore(self.inference_dtype, stamp)
        return self._store

    @torch.no_grad()
    def prepare(self, cond: Tensor | None, times: Tensor) -> UnetCache:
        """Tabulate what ``forward_cached`` needs for conditions ``(N, C)`` and grid ``times (S,)``; no gradients.

        Weights are packed on first use and again when they change.  The table of times is kept as long as the same
        ``times`` tensor comes.  With ``inference_dtype = torch.bfloat16`` products run in bfloat16 (about 1e-2).
        """
        with torch.autocast(self.project.weight.device.type, enabled=False):
            return tabulate(self, self._current_store(), cond, times)

    @torch.no_grad()
    def forward_cached(self, x: Tensor, step_index: int, cache: UnetCache) -> Tensor:
        """``forward(x, times[step_index], cond)`` of the ``prepare``d grid: same values within 1e-5 in float32.

        On a CPU the operations are recorded at the first call for a shape and replayed on fixed buffers later.
        """
        self._check_chunk(x)
        if self._can_record(x):
            program = recorded(self, cache.store, x)
            cache.coefficients(step_index, out=program.table)
            return program(x)
        table = cache.coefficients(step_index)
        films = table.split([b.film.out_features for b in self.residual_blocks()], dim=1)
        return self.traverse(PackedChannelsFirstOps(cache.store), x, split_films(self.residual_blocks(), films))

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """One optimiser group: the published network decays every parameter."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]
