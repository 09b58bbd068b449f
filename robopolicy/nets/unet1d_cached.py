"""Evaluation of the U-Net over a fixed grid of times: tabulated conditioning and recorded or packed operations.

What does not depend on the noisy chunk is computed once per chunk: the time embedding and every FiLM coefficient are
two tables, one per grid time and one per condition row, and a step adds a row of each.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from robopolicy.nets.blocks import Modulation, ResidualBlock
from robopolicy.nets.ops import ChannelsFirstOps
from robopolicy.nets.packed import version
from robopolicy.nets.recorder import Program, Recorder, WeightStore
from robopolicy.nets.temporal import TapConv, TapUpsample

if TYPE_CHECKING:
    from robopolicy.nets.unet1d import ConditionalUnet1d

# Batch sizes and horizons whose buffers are kept at a time; the oldest go first.
MAX_PROGRAMS = 32


class PackedChannelsFirstOps(ChannelsFirstOps):
    """Torch's convolutions with the weights made contiguous once (accelerators; fit for capture in a CUDA graph)."""

    def __init__(self, store: WeightStore) -> None:
        self.store = store

    def _kernel(self, module: TapConv | TapUpsample) -> Tensor:
        kernel = self.store.kernels.get(module)
        if kernel is None:
            kernel = self.store.kernels[module] = module.conv1d_weight.detach().contiguous()
        return kernel

    def conv(self, module: TapConv, h: Tensor) -> Tensor:
        """Convolve along time."""
        return F.conv1d(h, self._kernel(module), module.bias, module.stride, module.padding)

    def upsample(self, module: TapUpsample, h: Tensor) -> Tensor:
        """Double the length."""
        return F.conv_transpose1d(h, self._kernel(module), module.bias, stride=2, padding=1)


@dataclass
class UnetCache:
    """What the steps of one chunk share: tables of FiLM outputs, all blocks side by side (``F`` columns)."""

    store: WeightStore
    by_time: Tensor  # (S, F), bias included
    by_cond: Tensor | None  # (N, F)

    def coefficients(self, step: int, out: Tensor | None = None) -> Tensor:
        """FiLM outputs ``(N or 1, F)`` of grid time ``step``."""
        row = self.by_time[step : step + 1]
        if self.by_cond is not None:
            return torch.add(self.by_cond, row, out=out)
        return row if out is None else out.copy_(row)


def split_films(blocks: Sequence[ResidualBlock], parts: Sequence[Tensor]) -> list[Modulation]:
    """Each block's modulation from its FiLM output ``(N, channels or 2 channels)``."""
    return [b.modulation(part) for b, part in zip(blocks, parts, strict=True)]


def tabulate(net: ConditionalUnet1d, store: WeightStore, cond: Tensor | None, times: Tensor) -> UnetCache:
    """Both tables; the one over times is kept for the next chunk while the same ``times`` tensor comes."""
    blocks, split = net.residual_blocks(), net.step_embedding.dim
    weight = net.step_embedding.up.weight
    by_time = next((table for t, v, table in store.time_tables if t is times and v == version(times)), None)
    if by_time is None:
        active = F.mish(net.step_embedding(times.to(weight.device)))
        by_time = torch.cat([F.linear(active, b.film.weight[:, :split], b.film.bias) for b in blocks], dim=1)
        store.time_tables = [*store.time_tables[-3:], (times, version(times), by_time)]
    by_cond = None
    if cond is not None:
        if store.film_by_cond is None:
            store.film_by_cond = torch.cat([b.film.weight[:, split:] for b in blocks])
        by_cond = F.linear(F.mish(cond.to(weight.dtype)), store.film_by_cond)
    return UnetCache(store, by_time, by_cond)


def recorded(net: ConditionalUnet1d, store: WeightStore, x: Tensor) -> Program:
    """The program for chunks like ``x (N, H, D)``: one per thread, since it owns its buffers."""
    key = (threading.get_ident(), *x.shape[:2])
    program = store.programs.get(key)
    if program is None:
        # Buffers must be ordinary tensors, or a later call outside inference mode could not write them.
        with torch.inference_mode(False), torch.no_grad():
            recorder, blocks = Recorder(store, x.shape[0]), net.residual_blocks()
            widths = [b.film.out_features for b in blocks]
            table = torch.empty(x.shape[0], sum(widths))
            result = net.traverse(recorder, x, split_films(blocks, table.split(widths, dim=1)))
            assert recorder.source is not None
            program = Program(recorder.source, table, recorder.steps, result)
        while len(store.programs) >= MAX_PROGRAMS:
            store.programs.pop(next(iter(store.programs)), None)
        store.programs[key] = program
    return program
