"""Mean training loss between log lines, kept on the device and read only when a line is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from robopolicy.training.step import StepResult

if TYPE_CHECKING:
    from accelerate import Accelerator


class LossMeter:
    """Sums finite losses over steps and processes; its state is part of a checkpoint, so that means survive it."""

    def __init__(self, accelerator: Accelerator, loss_sum: float = 0.0, count: int = 0) -> None:
        self.accelerator = accelerator
        # Every process contributes its share of the global mean; what came before the resume is counted once.
        share = 1.0 if accelerator.is_main_process else 0.0
        self._sum = torch.tensor(loss_sum * share, device=accelerator.device)
        self._count = torch.tensor(count * share, device=accelerator.device)

    def add(self, result: StepResult) -> None:
        """Count a step unless it was skipped."""
        finite = torch.isfinite(result.norm)
        self._sum += torch.where(finite, result.loss, 0.0)
        if self.accelerator.is_main_process:
            self._count += finite

    def state(self) -> tuple[float, int]:
        """``(sum over processes, steps)`` so far."""
        total = self.accelerator.reduce(torch.stack([self._sum, self._count]), "sum")
        return float(total[0]), round(float(total[1]))

    def read(self) -> float:
        """The mean since the last reading (NaN if every step was skipped)."""
        total, count = self.state()
        self._sum.zero_()
        self._count.zero_()
        return total / count if count else float("nan")
