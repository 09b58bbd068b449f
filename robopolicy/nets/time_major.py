"""The U-Net's operations for CPUs, on features ``(H, N, channels)``, forward and backward.

With time first, tap ``j`` of a convolution is one matrix product between contiguous rows: no unfolding, no padding,
and no work for taps that would only meet zeros (30 % of a 5-tap kernel at length 4).  GroupNorm, Mish and FiLM are one
function with a hand-written backward: torch's Mish costs as much as a convolution on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robopolicy.nets.blocks import Modulation
from robopolicy.nets.temporal import TapConv, TapUpsample

# Beyond this Mish is the identity to the last bit; keeps ``e^v`` squared finite.
EXP_LIMIT = 20.0


def outer_taps(taps: int, length: int) -> Iterator[tuple[int, slice, slice]]:
    """Every tap but the middle one that meets data: ``(tap, output rows, input rows)`` at equal lengths."""
    for tap in range(taps):
        shift = tap - taps // 2
        if 0 < abs(shift) < length:
            yield tap, slice(max(0, -shift), length - max(0, shift)), slice(max(0, shift), length - max(0, -shift))


class TapProduct(torch.autograd.Function):
    """Stride-1 convolution ``x (H, N, C), weight (k, C, O), bias (O) -> (H, N, O)`` as ``k`` matrix products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Sum over taps of ``x[rows] @ weight[tap]``; the middle tap, which meets every row, goes first."""
        ctx.save_for_backward(x, weight)
        length, n, inputs = x.shape
        middle = len(weight) // 2
        flat = torch.addmm(bias, x.view(length * n, inputs), weight[middle])
        out = flat.view(length, n, -1)
        for tap, to, source in outer_taps(len(weight), length):
            out[to].flatten(0, 1).addmm_(x[source].flatten(0, 1), weight[tap])
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of input (if asked for), weight and bias."""
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        flat_x, flat_grad = x.flatten(0, 1), grad.flatten(0, 1)
        middle, taps = len(weight) // 2, list(outer_taps(len(weight), len(x)))
        grad_weight = torch.empty_like(weight) if len(taps) == len(weight) - 1 else torch.zeros_like(weight)
        torch.mm(flat_x.t(), flat_grad, out=grad_weight[middle])
        for tap, to, source in taps:
            torch.mm(x[source].flatten(0, 1).t(), grad[to].flatten(0, 1), out=grad_weight[tap])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(flat_grad, weight[middle].t()).view_as(x)
            for tap, to, source in taps:
                grad_x[source].flatten(0, 1).addmm_(grad[to].flatten(0, 1), weight[tap].t())
        return grad_x, grad_weight, flat_grad.sum(0)


def _spread(group: Tensor, channels: int) -> Tensor:
    """Repeat a value per group ``(N, G)`` over the group's channels: ``(N, channels)``."""
    return group.unsqueeze(-1).expand(-1, -1, channels // group.shape[1]).flatten(1)


def _gather(channel: Tensor, groups: int) -> Tensor:
    """Mean of values per channel ``(N, channels)`` over each group: ``(N, G)``."""
    return channel.unflatten(1, (groups, -1)).mean(-1)


class NormMish(torch.autograd.Function):
    """``FiLM(Mish(GroupNorm(u)))`` of ``u (H, N, C)``; scale and shift ``(N, C)`` or None.  Float32 throughout.

    With ``s = e^v + 1`` and ``r = 1 / (s^2 + 1)``: ``Mish(v) = v (1 - 2 r)`` and
    ``Mish'(v) = 1 - 2 r + 4 v r (1 - r (1 + s))``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        gamma: Tensor,
        beta: Tensor,
        groups: int,
        eps: float,
        scale: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        """Normalise over (time, channels of the group), then Mish, then modulate."""
        channels = u.shape[-1]
        centred = u - _spread(_gather(u.mean(0), groups), channels)
        rstd = _spread((_gather((centred * centred).mean(0), groups) + eps).rsqrt(), channels)
        v = torch.addcmul(beta, centred, rstd * gamma)
        s = v.clamp(max=EXP_LIMIT).exp_().add_(1.0)
        r = torch.addcmul(torch.ones((), dtype=v.dtype), s, s).reciprocal_()
        tanh = torch.add(1.0, r, alpha=-2.0)
        out = v * tanh
        if any(ctx.needs_input_grad):
            # 1 - r (1 + s), then the slope in place of the hyperbolic tangent.
            bend = s.mul_(r).add_(r).neg_().add_(1.0).mul_(v)
            slope = tanh.addcmul_(r, bend, value=4.0)
            ctx.save_for_backward(centred, rstd, gamma, slope, scale, out if scale is not None else None)
            ctx.groups, ctx.has_shift = groups, shift is not None
        if shift is None:
            return out
        return out + shift if scale is None else torch.addcmul(shift, out, scale)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of everything but ``groups`` and ``eps``."""
        centred, rstd, gamma, slope, scale, mish = ctx.saved_tensors
        grad, channels = grads[0], centred.shape[-1]
        grad_shift = grad.sum(0) if ctx.has_shift else None
        grad_scale = None
        if scale is not None:
            grad_scale = (grad * mish).sum(0)
            grad = grad * scale
        grad_v = grad * slope
        total = grad_v.sum(0)
        along = (grad_v * centred).sum(0) * rstd
        length = len(centred)
        mean = _spread(_gather(gamma * total, ctx.groups), channels) / length
        slant = _spread(_gather(gamma * along, ctx.groups), channels) / length
        grad_u = torch.addcmul(-rstd * mean, grad_v, rstd * gamma).addcmul_(centred, -rstd * rstd * slant)
        return grad_u, along.sum(0), total.sum(0), None, None, grad_scale, grad_shift


class TimeMajorOps:
    """Features ``(H, N, channels)``; products in autocast's dtype, normalisation in float32."""

    def enter(self, x: Tensor) -> Tensor:
        """``(N, H, D) -> (H, N, D)``."""
        return x.transpose(0, 1).contiguous()

    def leave(self, h: Tensor) -> Tensor:
        """``(H, N, D) -> (N, H, D)``."""
        return h.transpose(0, 1)

    def _cast(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if not torch.is_autocast_enabled("cpu"):
            return tensors
        dtype = torch.get_autocast_dtype("cpu")
        return tuple(t.to(dtype) for t in tensors)

    def conv(self, module: TapConv, h: Tensor) -> Tensor:
        """Convolve along time."""
        if module.stride == 2:
            odd = h[1::2]
            before = torch.cat((torch.zeros_like(odd[:1]), odd[:-1]))
            windows = torch.cat((before, h[::2], odd), dim=-1)
            x, weight, bias = self._cast(windows, module.weight.flatten(0, 1), module.bias)
            return torch.addmm(bias, x.flatten(0, 1), weight).unflatten(0, x.shape[:2])
        if len(module.weight) == 1:
            x, weight, bias = self._cast(h, module.weight[0], module.bias)
            return torch.addmm(bias, x.flatten(0, 1), weight).unflatten(0, x.shape[:2])
        out: Tensor = TapProduct.apply(*self._cast(h, module.weight, module.bias))
        return out

    def norm(self, module: nn.GroupNorm, h: Tensor, film: Modulation | None) -> Tensor:
        """GroupNorm, Mish, then FiLM."""
        scale, shift = film if film is not None else (None, None)
        dtype = module.weight.dtype
        scale, shift = (None if t is None else t.to(dtype) for t in (scale, shift))
        out: Tensor = NormMish.apply(
            h.to(dtype), module.weight, module.bias, module.num_groups, module.eps, scale, shift
        )
        return out

    def upsample(self, module: TapUpsample, h: Tensor) -> Tensor:
        """Double the length: even rows see taps 1 and 3 (one step back), odd rows taps 2 and 0 (one step ahead)."""
        x, weight, bias = self._cast(h, module.weight, module.bias)
        parts = torch.matmul(x.flatten(0, 1), weight).unflatten(1, x.shape[:2])
        nothing = torch.zeros_like(parts[0, :1])
        even = parts[1] + torch.cat((nothing, parts[3, :-1]))
        odd = parts[2] + torch.cat((parts[0, 1:], nothing))
        return torch.stack((even, odd), dim=1).flatten(0, 1) + bias

    def cat(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate channels."""
        return torch.cat((a, b), dim=-1)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum."""
        return a + b
