"""Descent on an energy of action chunks, for training and for inference.

Source: EBT-Policy (arXiv 2510.27545), Energy-Based Transformers (2507.02092).  One step k of K, per sample:

    x <- x / RMS(x)                      (optional)
    x <- x + sigma_k eps                 (Langevin noise, training only unless asked for)
    y <- x + mu v;  E = E(y);  g = dE/dy
    v <- mu v - alpha u [exp(E) / tau] g
    x <- x + v

What differs: norms, stops and step counts are per sample, so a row does not depend on its batch; exp's argument is
clamped; samples whose steps are done stay as they are.  Used by ``EbtPolicy``; works on any callable energy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.core.errors import NonFiniteLoss, PolicyInterfaceError
from robopolicy.policies.ebt_config import RefineConfig

# energy(x (n, H, D), rows (n,)): energies (n,) of chunks that belong to these rows of the batch.
Energy = Callable[[Tensor, Tensor], Tensor]
SMALLEST_RMS = 1e-6


@dataclass(frozen=True)
class Iterate:
    """Chunks ``x`` and velocities ``v`` ``(N, H, D)`` after a step; ``energy`` ``(N,)``, ``gradient`` at its ``y``."""

    x: Tensor
    v: Tensor
    energy: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Unrolled:
    """A training descent: ``last`` ``(N, H, D)``; what the last step began with; ``path``: rows and iterates a step."""

    last: Tensor
    before: tuple[Tensor, Tensor]
    path: list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trace:
    """An inference descent, per sample: ``energy`` and ``gradient`` (norm) ``(N, max_steps)``, NaN after its end.

    ``steps`` ``(N,)`` counts energy evaluations.
    """

    energy: Tensor
    gradient: Tensor
    steps: Tensor


class Refiner:
    """The rules of one ``RefineConfig``; holds no weights (``step_size`` comes from the head)."""

    def __init__(self, config: RefineConfig) -> None:
        self.config = config

    # -------------------------------------------------------------------------------------------- one step

    def sigma(self, k: Tensor | int, total: Tensor | int) -> Tensor:
        """Noise of step ``k`` (from 0) of ``total``: a cosine from ``noise_max`` that would reach ``noise_min`` at K.

        Oracle (0.2 to 0.002, K=6): 0.2, 0.18674, 0.1505, 0.101, 0.0515, 0.01526.
        """
        c = self.config
        phase = torch.as_tensor(k, dtype=torch.float32) / torch.as_tensor(total, dtype=torch.float32)
        return c.noise_min + (c.noise_max - c.noise_min) / 2 * (1 + torch.cos(math.pi * phase))

    def scale(self, energy: Tensor, step_size: Tensor | float) -> Tensor:
        """Effective step ``(N,)``.  Oracle (alpha 1000, tau 9): 111.111 at E=0, 1000 at E=ln 9."""
        c = self.config
        if c.scaling == "none":
            return step_size * torch.ones_like(energy)
        return step_size * energy.clamp(-c.energy_clamp, c.energy_clamp).exp() / c.tau

    def normalise(self, x: Tensor) -> Tensor:
        """``x`` over its root mean square, as configured."""
        if self.config.norm == "none":
            return x
        dims = tuple(range(x.ndim)) if self.config.norm == "batch" else tuple(range(1, x.ndim))
        return x / x.square().mean(dims, keepdim=True).sqrt().clamp(min=SMALLEST_RMS)

    def step(
        self,
        energy: Energy,
        x: Tensor,
        v: Tensor,
        rows: Tensor,
        step_size: Tensor | float,
        noise: Tensor | None = None,
        first: bool | Tensor = False,
        graph: bool = False,
    ) -> Iterate:
        """One step of chunks ``x`` with velocities ``v`` ``(n, H, D)``; ``noise`` comes scaled.

        ``graph`` keeps what second derivatives need, and flows into ``x`` and ``v`` where they require gradients.
        """
        if torch.is_inference_mode_enabled():
            raise PolicyInterfaceError(
                "refinement follows the energy's gradient, which torch.inference_mode() forbids; use torch.no_grad()"
            )
        c = self.config
        with torch.enable_grad():
            if c.norm_at == "every":
                x = self.normalise(x)
            elif c.norm != "none" and bool(torch.as_tensor(first).any()):
                at = torch.as_tensor(first, device=x.device).expand(len(x)).view(-1, 1, 1)
                x = torch.where(at, self.normalise(x), x)
            if noise is not None:
                x = x + noise
            y = x + c.momentum * v
            y = y if graph and y.requires_grad else y.detach().requires_grad_()
            e = energy(y, rows)
            (g,) = torch.autograd.grad(e.sum(), y, create_graph=graph)
            if c.gradient_clamp is not None:
                g = g.clamp(-c.gradient_clamp, c.gradient_clamp)
            if not graph:
                x, v, e, g = x.detach(), v.detach(), e.detach(), g.detach()
            v = c.momentum * v - self.scale(e, step_size).view(-1, 1, 1) * g
            after = Iterate(x + v, v, e, g)
        return after if graph else Iterate(after.x.detach(), after.v.detach(), e, g)

    # -------------------------------------------------------------------------------------------- training

    def unroll(
        self,
        energy: Energy,
        x: Tensor,
        steps: Tensor,
        step_size: Tensor | float,
        factors: Tensor | None = None,
        noise: Tensor | None = None,
        graph: bool = True,
        rows: Tensor | None = None,
    ) -> Unrolled:
        """Descend from ``x`` ``(N, H, D)``, sample i taking ``steps[i]`` steps.

        ``factors`` ``(N,)`` multiply the step size; ``noise`` ``(N, K, H, D)`` is unit normal; ``rows`` are the batch
        rows the energy belongs to.  With ``graph`` the loss can be differentiated: through the last step only
        (``truncate`` and ``detach``), through each step alone (``detach``), or through all.
        """
        rows = torch.arange(len(x), device=x.device) if rows is None else rows
        last_only = self.config.truncate and self.config.detach
        size = step_size * (torch.ones(len(x), device=x.device, dtype=x.dtype) if factors is None else factors)
        v = torch.zeros_like(x)
        before, path = (x, v), []
        longest = int(steps.max())
        for k in range(longest):
            at = (steps > (k + 1 if last_only else k)).nonzero().squeeze(1)
            if not len(at):
                break
            full = len(at) == len(x)
            xs, vs, ws = (x, v, size) if full else (x[at], v[at], size[at])
            if self.config.detach:
                xs, vs = xs.detach(), vs.detach()
            eps = None if noise is None else self._noise(noise[at, k], k, steps[at])
            here = graph and not last_only
            out = self.step(energy, xs, vs, rows if full else rows[at], ws, eps, first=k == 0, graph=here)
            # Not in place: earlier iterates may be part of a graph.
            x = out.x if full else x.index_copy(0, at, out.x)
            v = out.v if full else v.index_copy(0, at, out.v)
            path.append((at, out.x))
        if last_only:
            before = (x, v)
            x = self.finish(energy, before, steps, size, noise, graph, rows)
        return Unrolled(x, before, path)

    def finish(
        self,
        energy: Energy,
        before: tuple[Tensor, Tensor],
        steps: Tensor,
        size: Tensor,
        noise: Tensor | None,
        graph: bool,
        rows: Tensor,
    ) -> Tensor:
        """The last step of every sample: with ``truncate`` and ``detach`` the only one that parameters feel."""
        x, v = (p.detach() for p in before)
        eps = None
        if noise is not None:
            eps = self._noise(noise[torch.arange(len(x), device=x.device), steps - 1], steps - 1, steps)
        return self.step(energy, x, v, rows, size, eps, first=steps == 1, graph=graph).x

    def _noise(self, unit: Tensor, k: Tensor | int, total: Tensor) -> Tensor:
        return unit * self.sigma(k, total).to(unit).view(-1, 1, 1)

    # -------------------------------------------------------------------------------------------- inference

    def descend(
        self, energy: Energy, x: Tensor, step_size: Tensor | float, noise: Tensor | None = None
    ) -> tuple[Tensor, Trace]:
        """Descend from ``x`` ``(N, H, D)`` until each sample has stopped; then one more step, as published.

        ``noise`` ``(N, max_steps, H, D)`` is unit normal.  Takes at least two and at most ``max_steps`` steps (one when
        that is 1).  Raises ``NonFiniteLoss`` naming the step when a sample stops being finite.
        """
        c = self.config
        x, v = x.detach(), torch.zeros_like(x)
        n = len(x)
        every = torch.arange(n, device=x.device)
        energies = x.new_full((n, c.max_steps), torch.nan)
        norms = torch.full_like(energies, torch.nan)
        steps = torch.zeros(n, dtype=torch.long, device=x.device)
        active = every
        for k in range(c.max_steps):
            final = k == c.max_steps - 1 or not len(active)
            at = every if final else active
            eps = None
            if noise is not None:
                eps = self._noise(noise[at, steps[at]], steps[at], torch.full_like(at, c.max_steps))
                eps = eps * c.noise_at_inference
            out = self.step(energy, x[at], v[at], at, step_size, eps, first=steps[at] == 0)
            _check_finite(out, k)
            energies[at, steps[at]] = out.energy.to(energies)
            norms[at, steps[at]] = out.gradient.flatten(1).norm(dim=1).to(norms)
            going = self._going(out, x[at], energies[at], steps[at]) if c.stops_early and not final else None
            x, v = x.index_copy(0, at, out.x), v.index_copy(0, at, out.v)
            steps[at] += 1
            if final:
                break
            active = at if going is None else at[going]
        return x, Trace(energies, norms, steps)

    def _going(self, out: Iterate, x: Tensor, energies: Tensor, done: Tensor) -> Tensor:
        """Which samples have not met any stop."""
        c = self.config
        stop = out.gradient.flatten(1).norm(dim=1) < c.min_gradient
        stop |= (out.x - x).square().flatten(1).mean(1).sqrt() < c.tolerance
        if c.min_energy_change:
            previous = energies.gather(1, (done - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
            stop |= (done > 0) & ((out.energy - previous).abs() < c.min_energy_change)
        return ~stop


def _check_finite(out: Iterate, k: int) -> None:
    if not torch.isfinite(out.x).all():
        bad = (~torch.isfinite(out.x).flatten(1).all(1)).nonzero().squeeze(1).tolist()
        raise NonFiniteLoss(
            f"refinement step {k}: the chunk of row {bad[0]} is not finite (gradient norm "
            f"{float(out.gradient[bad[0]].norm()):.3g}, energy {float(out.energy[bad[0]]):.3g}); lower refine.step_size"
        )
