"""Low-dimensional keys: passed on as they are (the paper's choice), or through a small network."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class StateEncoder(nn.Module):
    """``(N, D)`` normalised vector to ``(N, dim)``; the identity without hidden layers."""

    def __init__(self, input_dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = hidden[-1] if hidden else input_dim
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((input_dim, *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.Mish()]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out
