"""Feature-wise linear modulation (Perez 2018, arXiv 1709.07871) in Diffusion Policy's form.

Differs from the usual ``(1 + scale) h + bias``: here ``scale h + bias`` with the default (non-zero) initialisation,
as in the published network.  Use it to condition convolutional features on one vector per sample.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FiLM(nn.Module):
    """Map a condition vector ``(N, cond_dim)`` to a per-channel scale and bias of features ``(N, channels, H)``.

    With ``scale=False`` only the bias is predicted and added.
    """

    def __init__(self, cond_dim: int, channels: int, scale: bool = True) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(cond_dim, 2 * channels if scale else channels)

    def forward(self, h: Tensor, cond: Tensor) -> Tensor:
        """Modulate ``h (N, channels, H)`` by ``cond (N, cond_dim)``."""
        table = self.linear(F.mish(cond)).unsqueeze(-1)
        if not self.scale:
            out: Tensor = h + table
            return out
        scale, bias = table.chunk(2, dim=1)
        return scale * h + bias
