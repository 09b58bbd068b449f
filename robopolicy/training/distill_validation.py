"""How far a student is from its teacher on held-out windows: the error that distillation can lower.

Source: none; RMS differences in the model's units (normalised actions), from equal latents.  Two chunks of the teacher
from different latents differ by ``teacher_spread``, so a distance of ``teacher_spread / sqrt(2)`` is no better than the
teacher's mean, and a ``student_spread`` below the teacher's means that ways of doing the task were averaged.
When to use: as the validation of a distillation; success in rollouts is another question.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robopolicy.core.seeding import derive_seed
from robopolicy.encoders.features import Features
from robopolicy.policies.base import Policy
from robopolicy.policies.flow import FlowPolicy
from robopolicy.training.batches import to_tensors
from robopolicy.training.distill import Distiller
from robopolicy.training.validation import ROWS, OpenLoop


class TeacherDistance:
    """``measure(student)``: the scalars of ``OpenLoop`` (``loss`` is the distillation's), ``teacher_distance`` and the
    two spreads.  The teacher's ends are worked out once."""

    def __init__(self, open_loop: OpenLoop, distiller: Distiller) -> None:
        self.open_loop, self.distiller = open_loop, distiller
        self._ends: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, policy: Policy) -> dict[str, float]:
        """Scalars of ``policy``, a student in evaluation mode."""
        assert isinstance(policy, FlowPolicy)
        scalars = self.open_loop(policy)
        sums, losses = torch.zeros(3, dtype=torch.float64), []
        for at in range(0, len(self.open_loop.indices), ROWS):
            batch = self._batch(at)
            noise = policy.draw_training_noise(len(batch["index"]), self._generator(at))
            losses.append(self.distiller.loss(policy, batch, noise))
            sums += self._squares(policy, self.distiller.features(batch), at)
        mean = (sums / len(torch.cat(losses))).sqrt().tolist()
        names = ("teacher_distance", "teacher_spread", "student_spread")
        return {**scalars, "loss": float(torch.cat(losses).mean()), **dict(zip(names, mean, strict=True))}

    def _squares(self, policy: FlowPolicy, features: Features, at: int) -> Tensor:
        """Sums over rows of mean squares: student against teacher, and each against itself from other latents."""
        rows, device = features.batch_size, self.distiller.teacher.device
        shape = (2, rows, 1 + policy.tape_len, *policy.latent_shape)
        drawn = torch.randn(shape, generator=self._generator(at, 1)).to(device)
        if at not in self._ends:
            first, second = (self.distiller.solve(features, drawn[i, :, 0])[-1] for i in (0, 1))
            self._ends[at] = first, second
        tapes = drawn[:, :, 1:] if policy.tape_len else (None, None)
        chunks = [policy.decode(features, drawn[i, :, 0], tape=tapes[i]) for i in (0, 1)]
        first, second = self._ends[at]
        pairs = ((chunks[0], first), (first, second), (chunks[0], chunks[1]))
        return torch.stack([(a - b).double().square().mean((1, 2)).sum().cpu() for a, b in pairs])

    def _batch(self, at: int) -> dict[str, Any]:
        data = to_tensors(self.open_loop.windows.gather(self.open_loop.indices[at : at + ROWS]))
        device = self.distiller.teacher.device
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in data.items()}

    def _generator(self, at: int, part: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed("noise", self.open_loop.seed, at, part))
