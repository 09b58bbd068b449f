"""Record the U-Net's operations once for a batch size and horizon, then replay them on fixed buffers (CPU).

The CPU counterpart of a CUDA graph: traversing the topology with a ``Recorder`` yields a list of steps whose
tensors, views and weights are all made beforehand, so that a denoising step is a dozen torch calls a block and no
Python logic.  Short convolutions are one product of unfolded windows when rows are few, one product per tap when
they are many.  Features are ``(N, H, C)`` views; what lies under them (batch or time first) follows from the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robopolicy.nets.blocks import Modulation
from robopolicy.nets.packed import PackedMatrix
from robopolicy.nets.temporal import TapConv, TapUpsample
from robopolicy.nets.time_major import outer_taps

# From this many chunks on, a product per tap beats one product of windows.
TAPS_FROM = {torch.float32: 8, torch.bfloat16: 32}


@dataclass
class WeightStore:
    """What is derived from one state of a network's weights, shared by all caches until the weights change."""

    dtype: torch.dtype
    stamp: tuple[object, ...]
    matrices: dict[tuple[nn.Module, int], PackedMatrix] = field(default_factory=dict)
    kernels: dict[nn.Module, Tensor] = field(default_factory=dict)
    time_tables: list[tuple[Tensor, int, Tensor]] = field(default_factory=list)
    film_by_cond: Tensor | None = None  # (F, C): the condition's columns of every FiLM layer
    programs: dict[tuple[int, ...], Program] = field(default_factory=dict)


@dataclass
class Program:
    """A recorded network: write ``source`` and the FiLM ``table``, run, read ``result``."""

    source: Tensor  # (N, H, input_dim)
    table: Tensor  # (N, F): FiLM coefficients of the current step
    steps: list[Callable[[], object]]
    result: Tensor  # (N, H, output_dim), overwritten by the next run

    def __call__(self, x: Tensor) -> Tensor:
        """Run on ``x (N, H, input_dim)``; the result is the caller's to keep."""
        self.source.copy_(x)
        for step in self.steps:
            step()
        return self.result.clone(memory_format=torch.contiguous_format)


class Recorder:
    """``Ops`` that allocate each result once and append how to compute it to ``steps``."""

    def __init__(self, store: WeightStore, n: int) -> None:
        self.store, self.n = store, n
        self.steps: list[Callable[[], object]] = []
        self.by_tap = n >= TAPS_FROM.get(store.dtype, 8)
        self._padded: dict[int, Tensor] = {}  # feature -> the zero-bordered storage it is the inside of
        self._kept: list[Tensor] = []  # keeps the ids above valid
        self._shared: dict[tuple[object, ...], Tensor] = {}
        self.source: Tensor | None = None

    # ------------------------------------------------------------------------------------------------- storage

    def _feature(self, length: int, channels: int, border: int = 2) -> Tensor:
        """New ``(N, H, C)`` feature: time first without border, or batch first inside a zero border."""
        if self.by_tap:
            out = torch.empty(length, self.n, channels).transpose(0, 1)
        else:
            padded = torch.zeros(self.n, length + 2 * border, channels)
            out = padded[:, border : border + length]
            self._padded[id(out)] = padded
        self._kept.append(out)
        return out

    def _scratch(self, use: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Buffer that the very next step consumes, so that all steps of one ``use`` and shape share it (and L2)."""
        key = (use, *shape, dtype)
        if key not in self._shared:
            self._shared[key] = torch.empty(*shape, dtype=dtype)
        return self._shared[key]

    def _bordered(self, h: Tensor, border: int) -> Tensor:
        """``h`` with ``border`` zero steps on both sides, ``(N, H + 2 border, C)``."""
        padded = self._padded.get(id(h))
        if padded is not None and (extra := padded.shape[1] - h.shape[1] - 2 * border) >= 0:
            return padded[:, extra // 2 : padded.shape[1] - extra // 2]
        padded = torch.zeros(self.n, h.shape[1] + 2 * border, h.shape[2])
        inside = padded[:, border : border + h.shape[1]]
        self.steps.append(lambda: inside.copy_(h))
        return padded

    def _copied(self, h: Tensor, dtype: torch.dtype, time_first: bool) -> Tensor:
        """``h`` contiguous in the asked order and dtype, ``(N, H, C)`` or ``(H, N, C)``; copied only if it must be."""
        view = h.transpose(0, 1) if time_first else h
        if view.is_contiguous() and view.dtype == dtype:
            return view
        buffer = self._scratch("copy", view.shape, dtype)
        self.steps.append(lambda: buffer.copy_(view))
        return buffer

    def _windows(self, h: Tensor, taps: int, stride: int, border: int) -> Tensor:
        """Rows of ``taps`` neighbouring steps ``(N * rows, taps * C)``."""
        padded = self._bordered(h, border)
        rows = (padded.shape[1] - taps) // stride + 1
        batch, step, _ = padded.stride()
        view = padded.as_strided(
            (self.n, rows, taps, h.shape[2]), (batch, stride * step, step, 1), padded.storage_offset()
        )
        buffer = self._scratch("windows", view.shape, self.store.dtype)
        self.steps.append(lambda: buffer.copy_(view))
        return buffer.view(self.n * rows, taps * h.shape[2])

    def _matrix(self, module: nn.Module, key: int, weight: Callable[[], tuple[Tensor, Tensor]]) -> PackedMatrix:
        matrix = self.store.matrices.get((module, key))
        if matrix is None:
            matrix = self.store.matrices[module, key] = PackedMatrix(*weight(), self.store.dtype)
        return matrix

    def _product(self, matrix: PackedMatrix, rows: Tensor, length: int, passing: bool = False) -> Tensor:
        shape = (rows.shape[0], matrix.weight.shape[1])
        out = self._scratch("product", shape) if passing else torch.empty(shape)
        self.steps.append(lambda: matrix.product(rows, out))
        return out.view(self.n, length, -1)

    # --------------------------------------------------------------------------------------------- Ops protocol

    def enter(self, x: Tensor) -> Tensor:
        """Buffer for chunks like ``x (N, H, D)``."""
        self.source = self._feature(x.shape[1], x.shape[2])
        return self.source

    def leave(self, h: Tensor) -> Tensor:
        """Features are chunks already."""
        return h

    def conv(self, module: TapConv, h: Tensor) -> Tensor:
        """Convolve along time."""
        length, taps, pad = h.shape[1], len(module.weight), module.padding
        if self.by_tap and taps > 1 and module.stride == 1:
            return self._taps(module, h)
        # Taps that reach past both ends of a very short chunk meet only padding: leave them out.
        reach = min(pad, length - 1) if module.stride == 1 else pad
        matrix = self._matrix(
            module, reach, lambda: (module.weight[pad - reach : pad + reach + 1].flatten(0, 1), module.bias)
        )
        if taps == 1:
            rows = self._copied(h, self.store.dtype, time_first=False).view(self.n * length, -1)
        else:
            rows = self._windows(h, 2 * reach + 1, module.stride, reach)
        # A convolution that keeps the length and looks around is always followed by its block's normalisation.
        return self._product(matrix, rows, length // module.stride, passing=taps > 1 and module.stride == 1)

    def _taps(self, module: TapConv, h: Tensor) -> Tensor:
        dtype, length, taps = self.store.dtype, h.shape[1], len(module.weight)
        x = self._copied(h, dtype, time_first=True)
        matrix = self._matrix(module, -1, lambda: (module.weight.flatten(0, 1), module.bias))
        weights, bias = matrix.weight.view(taps, x.shape[2], -1), matrix.bias
        out = self._scratch("product", (length, self.n, weights.shape[2]), dtype)
        flat_x, flat_out, middle = x.view(-1, x.shape[2]), out.view(-1, out.shape[2]), weights[taps // 2]
        self.steps.append(lambda: torch.addmm(bias, flat_x, middle, out=flat_out))
        for tap, to, source in outer_taps(taps, length):
            self._accumulate(out[to].flatten(0, 1), x[source].flatten(0, 1), weights[tap])
        return out.transpose(0, 1)

    def _accumulate(self, target: Tensor, rows: Tensor, weight: Tensor) -> None:
        self.steps.append(lambda: target.addmm_(rows, weight))

    def norm(self, module: nn.GroupNorm, h: Tensor, film: Modulation | None) -> Tensor:
        """GroupNorm on torch's channels-last kernel, Mish, then FiLM.

        With ``u = -v`` and ``q = sigmoid(u)``, ``Mish(v) = u - 2 u / (1 + q^2)``: three vectorised passes (a sigmoid
        costs half an exponential), and the normalisation gives ``u`` itself when its own weights are negated.
        """
        n, length, channels = h.shape
        rows = self._copied(h, torch.float32, time_first=False)
        image = rows.permute(0, 2, 1).unsqueeze(-1)  # (N, C, H, 1), channels last
        image = image.as_strided(image.shape, (length * channels, 1, channels, channels))
        out = self._feature(length, channels)
        target = out.permute(0, 2, 1).unsqueeze(-1)
        weight, bias, groups, eps = -module.weight.detach(), -module.bias.detach(), module.num_groups, module.eps
        scale, shift = (None, None) if film is None else film
        shift = None if shift is None else shift[:, :, None, None]
        scale = None if scale is None else scale[:, :, None, None]
        one = torch.ones((), device=h.device)

        def step() -> None:
            u = torch.native_group_norm(image, weight, bias, n, channels, length, groups, eps)[0]
            q = torch.sigmoid(u)
            d = torch.addcmul(one, q, q, out=q)
            if shift is None:
                torch.addcdiv(u, u, d, value=-2.0, out=target)
                return
            m = torch.addcdiv(u, u, d, value=-2.0, out=d)
            torch.add(m, shift, out=target) if scale is None else torch.addcmul(shift, m, scale, out=target)

        self.steps.append(step)
        return out

    def upsample(self, module: TapUpsample, h: Tensor) -> Tensor:
        """Double the length: the pair of steps (j-1, j) makes output rows 2j-1 and 2j in one product."""
        length, channels = h.shape[1], h.shape[2]

        def blocks() -> tuple[Tensor, Tensor]:
            w = module.weight
            return torch.cat((torch.cat((w[2], w[3]), 1), torch.cat((w[0], w[1]), 1))), module.bias.repeat(2)

        pairs = self._product(self._matrix(module, 0, blocks), self._windows(h, 2, 1, 1), length + 1)
        return pairs.view(self.n, 2 * length + 2, channels)[:, 1:-1]

    def cat(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate channels."""
        out = self._feature(a.shape[1], a.shape[2] + b.shape[2])
        left, right = out[..., : a.shape[2]], out[..., a.shape[2] :]
        self.steps.append(lambda: left.copy_(a))
        self.steps.append(lambda: right.copy_(b))
        return out

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Add ``b`` to ``a`` in place: ``a`` is always a block's own fresh result."""
        self.steps.append(lambda: a.add_(b))
        return a
