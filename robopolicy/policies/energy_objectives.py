"""What an energy head is trained on: where its descent ends, or how it ranks candidates.

Sources: EBT-Policy (arXiv 2510.27545) for the error of the last iterate ("paper"); Implicit Behavioral Cloning
(2109.00137) for "infonce".  "wta" and "soft_wta" (the closest of several starts) are ours: the start noise is
independent of the target, so the published objective is least at the mean of the modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robopolicy.policies.losses import masked_mean
from robopolicy.policies.refine import Energy, Refiner


@dataclass(frozen=True)
class Descent:
    """One training descent of ``B`` samples from ``M`` starts each.

    ``start`` ``(B, M, H, D)``; ``steps`` and ``factors`` ``(B,)``; ``noise`` ``(B, M, K, H, D)`` unit normal or None;
    ``target`` ``(B, H, D)``; ``mask`` ``(B, H)``; ``channels`` ``(D,)``.
    """

    refiner: Refiner
    energy: Energy
    step_size: Tensor | float
    start: Tensor
    steps: Tensor
    factors: Tensor
    noise: Tensor | None
    target: Tensor
    mask: Tensor | None
    channels: Tensor | None

    @property
    def rows(self) -> Tensor:
        """Sample of every start ``(B * M,)``."""
        return torch.arange(len(self.start), device=self.start.device).repeat_interleave(self.start.shape[1])

    def error(self, x: Tensor, rows: Tensor) -> Tensor:
        """Squared error of chunks ``x`` that belong to samples ``rows``."""
        mask = None if self.mask is None else self.mask[rows]
        return masked_mean((x - self.target[rows]).square(), mask, self.channels)


def paper_loss(d: Descent, graph: bool) -> tuple[Tensor, Tensor]:
    """Error of the last iterate, or the mean over all: ``(B,)`` and the final chunks; one start a sample."""
    rows = d.rows
    noise = None if d.noise is None else d.noise.flatten(0, 1)
    out = d.refiner.unroll(d.energy, d.start.flatten(0, 1), d.steps, d.step_size, d.factors, noise, graph)
    if d.refiner.config.truncate:
        return d.error(out.last, rows), out.last.detach()
    loss = torch.zeros(len(rows), device=out.last.device)
    for at, x in out.path:
        loss = loss.index_add(0, at, d.error(x, at))
    return loss / d.steps, out.last.detach()


def closest_loss(d: Descent, graph: bool) -> tuple[Tensor, Tensor]:
    """The paper's loss of the start that ends closest to the target: ``(B,)`` and its final chunks.

    All starts descend without a graph; only the closest is done again with one.
    """
    b, m = d.start.shape[:2]
    x, rows = d.start.flatten(0, 1), d.rows
    steps, factors = d.steps[rows], d.factors[rows]
    noise = None if d.noise is None else d.noise.flatten(0, 1)
    out = d.refiner.unroll(d.energy, x, steps, d.step_size, factors, noise, graph=False, rows=rows)
    errors = d.error(out.last, rows).view(b, m)
    best = torch.arange(b, device=x.device) * m + errors.argmin(1)
    noise = None if noise is None else noise[best]
    c = d.refiner.config
    if not (c.truncate and c.detach):
        again = Descent(
            d.refiner, d.energy, d.step_size, x[best].unsqueeze(1), d.steps, d.factors,
            None if noise is None else noise.unsqueeze(1), d.target, d.mask, d.channels,
        )  # fmt: skip
        return paper_loss(again, graph)
    before = (out.before[0][best], out.before[1][best])
    sizes = d.step_size * d.factors
    last = d.refiner.finish(d.energy, before, d.steps, sizes, noise, graph, rows[best])
    return d.error(last, rows[best]), last.detach()


def soft_closest_loss(d: Descent, graph: bool, temperature: float) -> tuple[Tensor, Tensor]:
    """The paper's loss of all starts, weighed by softmax(-error / temperature) of where they end."""
    b, m = d.start.shape[:2]
    rows = d.rows
    noise = None if d.noise is None else d.noise.flatten(0, 1)
    steps, factors = d.steps[rows], d.factors[rows]
    out = d.refiner.unroll(d.energy, d.start.flatten(0, 1), steps, d.step_size, factors, noise, graph, rows)
    ends = d.error(out.last, rows).view(b, m)
    weights = (-ends.detach() / temperature).softmax(1)
    losses = ends
    if not d.refiner.config.truncate:
        total = torch.zeros(b * m, device=ends.device)
        for at, x in out.path:
            total = total.index_add(0, at, d.error(x, rows[at]))
        losses = (total / steps).view(b, m)
    final = out.last.detach().unflatten(0, (b, m))
    return (weights * losses).sum(1), final[torch.arange(b, device=final.device), ends.argmin(1)]


def ranking_loss(d: Descent, graph: bool, temperature: float, limit: float, penalty: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of the target against the starts, the second half of them after a descent, plus the gradient penalty.

    Steps that do not count are the target's in every candidate, so they rank nothing.
    """
    b, m = d.start.shape[:2]
    half = m // 2
    hard = d.start[:, half:].flatten(0, 1)
    rows = torch.arange(b, device=hard.device).repeat_interleave(m - half)
    noise = None if d.noise is None else d.noise[:, half:].flatten(0, 1)
    out = d.refiner.unroll(d.energy, hard, d.steps[rows], d.step_size, d.factors[rows], noise, False, rows)
    descended = out.last.unflatten(0, (b, m - half))
    candidates = torch.cat((d.target.unsqueeze(1), d.start[:, :half], descended), dim=1)
    if d.mask is not None:
        candidates = torch.where(d.mask.bool()[:, None, :, None], candidates, d.target.unsqueeze(1))
    flat = candidates.flatten(0, 1).detach().requires_grad_()
    with torch.enable_grad():
        energies = d.energy(flat, torch.arange(b, device=flat.device).repeat_interleave(m + 1))
        (gradient,) = torch.autograd.grad(energies.sum(), flat, create_graph=graph)
    ranked = F.log_softmax(-energies.view(b, m + 1) / temperature, dim=1)[:, 0]
    # The root's derivative is infinite at 0.
    norms = gradient.square().flatten(1).sum(1).clamp(min=1e-12).sqrt().view(b, m + 1)
    excess = (norms - limit).clamp(min=0).square().mean(1)
    return -ranked + penalty * excess, descended[:, 0].detach()
