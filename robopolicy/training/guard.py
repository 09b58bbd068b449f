"""Finds steps whose gradient was not finite, without waiting for the device, and names the samples to blame."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robopolicy.training.batches import MicroBatch
from robopolicy.training.config import GuardConfig


class FiniteGuard:
    """Watches gradient norms.  On a GPU the answer arrives a step or two later; on the CPU at once."""

    def __init__(self, config: GuardConfig, skipped: Sequence[int] = ()) -> None:
        self.config = config
        self.skipped = list(skipped)
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event]] = deque()

    def observe(self, step: int, norm: Tensor) -> list[int]:
        """Steps just found to be non-finite (they were skipped)."""
        if norm.device.type == "cpu":
            return self._note([] if torch.isfinite(norm) else [step])
        host = torch.empty((), pin_memory=True).copy_(norm, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((step, host, event))
        return self._note(self._arrived(wait=False))

    def flush(self) -> list[int]:
        """Like ``observe`` for everything still on its way; waits for the device."""
        return self._note(self._arrived(wait=True))

    def _arrived(self, wait: bool) -> list[int]:
        bad = []
        while self._pending and (wait or self._pending[0][2].query()):
            step, host, event = self._pending.popleft()
            event.synchronize()
            if not torch.isfinite(host):
                bad.append(step)
        return bad

    def _note(self, bad: list[int]) -> list[int]:
        self.skipped += bad
        if bad:
            self.skipped = [s for s in self.skipped if s > bad[-1] - self.config.window]
        return bad

    @property
    def exhausted(self) -> bool:
        """Whether as many steps were skipped within the window as the configuration allows."""
        return len(self.skipped) >= self.config.max_skips


@torch.no_grad()
def blame(objective: nn.Module, micro: Sequence[MicroBatch]) -> str:
    """Dataset rows and episodes of the samples whose loss is not finite, recomputed with the step's own noise.

    ``objective`` maps a physical batch and its noise to per-sample losses (``step.PolicyLoss``).
    """
    rows: list[tuple[int, int]] = []
    worst: list[tuple[float, int, int]] = []
    for part in micro:
        part = part.to(next(objective.parameters()).device)
        losses = objective(part.batch, part.noise).float().cpu()
        # A chain of windows is named by its first one.
        index, own = (part.batch[k].reshape(len(losses), -1)[:, 0].tolist() for k in ("index", "episode_index"))
        where = zip(index, own, losses.tolist(), strict=True)
        for (row, episode, loss), finite in zip(where, torch.isfinite(losses).tolist(), strict=True):
            if not finite:
                rows.append((row, episode))
            worst.append((loss, row, episode))
    if rows:
        named = ", ".join(f"row {row} (episode {episode})" for row, episode in rows[:8])
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        return f"the loss is not finite for the windows at {named}{more}"
    loss, row, episode = max(worst)
    largest = f"largest loss {loss:.3g} at row {row} (episode {episode})"
    return f"every sample's loss is finite, the gradient overflowed; {largest}"
