"""Weights laid out once for inference: a matrix that multiplies rows, in float32 or bfloat16.

oneDNN's blocked layout reads large matrices up to 1.3x faster than plain rows when few rows are multiplied (measured
on AVX-512 with AMX; in bfloat16 up to 1.3x at every size).  It is reached through an operator that torch does not
promise to keep, so it is tried once and the plain product is used where it is missing.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

# Below this many elements, or above this many rows, the plain float32 product is faster.
BLOCKED_FROM = 1 << 20
BLOCKED_ROWS = 16


@cache
def has_blocked_linear() -> bool:
    """Whether this build of torch has oneDNN's packed linear operator and it computes what it should."""
    weight, x = torch.ones(16, 16), torch.ones(1, 16)
    try:
        with torch.no_grad():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
            out = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((out == 16.0).all())


class PackedMatrix:
    """A ``weight (K, O)`` and ``bias (O)`` that write ``rows (M, K) @ weight + bias`` into ``out (M, O)``.

    ``rows`` come in the matrix's ``dtype``.  The blocked copy is made when it is first useful.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.weight, self.bias = weight.detach().to(dtype), bias.detach().to(dtype)
        self._blocked: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """``rows (M, K)`` of any float dtype to new ``(M, O)`` of the same dtype."""
        out = rows.new_empty(rows.shape[0], self.weight.shape[1])
        self.product(rows.to(self.dtype), out)
        return out

    def product(self, rows: Tensor, out: Tensor) -> None:
        """Fill ``out``."""
        low = self.dtype == torch.bfloat16
        few = rows.shape[0] <= BLOCKED_ROWS and self.weight.numel() >= BLOCKED_FROM and rows.dtype == torch.float32
        if (low or few) and self.weight.is_cpu and has_blocked_linear():
            if self._blocked is None:
                self._blocked = torch.ops.mkldnn._reorder_linear_weight(self.weight.t().contiguous(), BLOCKED_ROWS)
            out.copy_(torch.ops.mkldnn._linear_pointwise(rows, self._blocked, self.bias, "none", [], ""))
        elif low:
            out.copy_(torch.addmm(self.bias, rows, self.weight))
        else:
            torch.addmm(self.bias, rows, self.weight, out=out)


def version(tensor: Tensor) -> int:
    """How often a tensor was written in place; 0 for inference-mode tensors, which do not count."""
    return 0 if tensor.is_inference() else tensor._version


def fingerprint(module: nn.Module) -> tuple[object, ...]:
    """A value that changes when any parameter is replaced, moved, or written in place.

    It is asked for once a chunk, so the tree is walked without the names that ``parameters()`` makes (5 % of a chunk).
    """
    found: list[object] = []
    waiting = [module]
    for part in waiting:
        found += [(id(p), p.data_ptr(), version(p)) for p in part._parameters.values() if p is not None]
        waiting += [child for child in part._modules.values() if child is not None]
    return tuple(found)
