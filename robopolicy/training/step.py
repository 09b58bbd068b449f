"""One optimiser step: micro-batches, one loss normalised over the global batch, clipping, and a skip if not finite.

Nothing here waits for a GPU: the loss and the gradient norm stay on the device, and a non-finite gradient makes the
fused optimiser skip on the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robopolicy.core.seeding import derive_seed
from robopolicy.training.batches import MicroBatch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from robopolicy.policies.base import Policy


class PolicyLoss(nn.Module):
    """``Policy.loss`` as a ``forward``, so that data-parallel wrappers see every call."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: dict[str, Any], noise: dict[str, Tensor]) -> Tensor:
        """Per-sample losses ``(B,)`` of a physical batch."""
        per_sample: Tensor = self.policy.loss(batch, noise=noise)[0]
        return per_sample


@dataclass
class StepResult:
    """``loss``: this rank's share of the mean over the global batch; ``norm``: global gradient norm before clipping.

    Both are 0-dim tensors on the device.
    """

    loss: Tensor
    norm: Tensor


class Stepper:
    """Callable that does one step in place."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        *,
        batch_size: int,
        seed: int,
        grad_clip: float | None,
        bf16: bool,
    ) -> None:
        self.module, self.optimizer, self.accelerator = module, optimizer, accelerator
        self.batch_size, self.seed, self.bf16 = batch_size, seed, bf16
        self.grad_clip = float("inf") if grad_clip is None else grad_clip
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, micro: Sequence[MicroBatch], step: int) -> StepResult:
        loss = self._backward(micro, step)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.grad_clip, norm)
        self._apply(norm)
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss, norm)

    def _backward(self, micro: Sequence[MicroBatch], step: int) -> Tensor:
        device, world = self.accelerator.device, self.accelerator.num_processes
        loss = torch.zeros((), device=device)
        for i, part in enumerate(micro):
            # Dropout is the only noise the policy does not receive from outside; a fresh seed makes it resumable.
            torch.manual_seed(self.dropout_seed(step, i))
            part = part.to(device)
            last = i == len(micro) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.module):
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
                    total = self.module(part.batch, part.noise).float().sum() / self.batch_size
                # Data-parallel backward averages over processes; the sum over the global batch is wanted.
                (total * world).backward()
            loss += total.detach()
        return loss

    def dropout_seed(self, step: int, part: int) -> int:
        """Seed of the global generator for micro-batch ``part`` of ``step`` on this process."""
        return derive_seed("train", self.seed, step, self.accelerator.process_index, part)

    def _apply(self, norm: Tensor) -> None:
        if norm.device.type == "cpu":
            if torch.isfinite(norm):
                self.optimizer.step()
            return
        # Fused AdamW reads this flag on the device and leaves weights, moments and step count alone when it is 1.
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimizer.step()
