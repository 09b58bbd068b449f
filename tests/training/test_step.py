"""One optimiser step: accumulation changes nothing, non-finite gradients are skipped, names are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from robopolicy.testing.tiny import random_batch, tiny_policy
from robopolicy.training.batches import BatchSource
from robopolicy.training.config import GuardConfig, OptimizerConfig
from robopolicy.training.guard import FiniteGuard, blame
from robopolicy.training.meter import LossMeter
from robopolicy.training.optim import build_optimizer
from robopolicy.training.step import PolicyLoss, Stepper, StepResult

BATCH = 12


class Fixed:
    """Windows over one random batch."""

    def __init__(self, policy):
        self.data = random_batch(policy, BATCH) | {"index": np.arange(BATCH), "episode_index": np.arange(BATCH) // 4}

    def __len__(self):
        return BATCH

    def gather(self, indices):
        return {k: v[indices] for k, v in self.data.items()}


def run(parts=1, clip=10.0, steps=3, spoil=None, lr=1e-3):
    policy = tiny_policy(seed=1).train()
    windows = Fixed(policy)
    if spoil is not None:
        windows.data["action"][spoil] = np.nan
    source = BatchSource(windows, policy.draw_training_noise, BATCH, seed=0, accumulation=parts)
    optimizer = build_optimizer(policy, OptimizerConfig(lr=lr))
    stepper = Stepper(
        PolicyLoss(policy), optimizer, Accelerator(cpu=True), batch_size=BATCH, seed=0, grad_clip=clip, bf16=False
    )
    results = [stepper(source(s), s) for s in range(steps)]
    return policy, results, source, optimizer


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts):
    _, whole, _, _ = run(steps=1)
    _, cut, _, _ = run(parts=parts, steps=1)
    assert float(cut[0].loss) == pytest.approx(float(whole[0].loss), rel=1e-5)
    assert float(cut[0].norm) == pytest.approx(float(whole[0].norm), rel=1e-4)


def test_loss_is_the_mean_of_the_policy_s_per_sample_losses():
    policy, results, source, _ = run(steps=1, lr=1e-12)
    (part,) = source(0)
    with torch.no_grad():
        per_sample = policy.loss(part.batch, noise=part.noise)[0]
    assert float(results[0].loss) == pytest.approx(float(per_sample.mean()), rel=1e-4)


def test_clipping_bounds_what_is_applied_and_reports_what_was():
    gradients = []
    real = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        gradients.append(torch.nn.utils.get_total_norm([p.grad for g in self.param_groups for p in g["params"]]))
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        _, results, _, _ = run(clip=0.01, steps=1)
    assert float(gradients[0]) == pytest.approx(0.01, rel=1e-3)
    assert float(results[0].norm) > 0.1


def test_a_non_finite_gradient_changes_nothing_and_is_blamed():
    before = tiny_policy(seed=1).state_dict()
    policy, results, source, optimizer = run(spoil=7)
    after = policy.state_dict()
    assert [bool(torch.isfinite(r.norm)) for r in results] == [False] * 3
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not optimizer.state
    assert blame(PolicyLoss(policy), source(0)) == "the loss is not finite for the windows at row 7 (episode 1)"


def test_an_overflow_without_a_bad_sample_names_the_largest_loss():
    policy, _, source, _ = run()
    text = blame(PolicyLoss(policy), source(0))
    with torch.no_grad():
        (part,) = source(0)
        worst = int(part.batch["index"][policy.loss(part.batch, noise=part.noise)[0].argmax()])
    assert text.startswith("every sample's loss is finite")
    assert f"row {worst} " in text


def test_guard_counts_within_its_window():
    guard = FiniteGuard(GuardConfig(max_skips=3, window=10))
    bad, good = torch.tensor(float("inf")), torch.tensor(1.0)
    assert guard.observe(0, bad) == [0]
    assert guard.observe(1, good) == []
    guard.observe(2, bad)
    assert not guard.exhausted
    guard.observe(15, bad)
    assert guard.skipped == [15]  # 0 and 2 are long ago
    guard.observe(16, bad)
    guard.observe(17, bad)
    assert guard.exhausted
    assert FiniteGuard(GuardConfig(max_skips=3), guard.skipped).exhausted
    assert guard.flush() == []


def test_meter_averages_finite_steps_and_keeps_its_state():
    accelerator = Accelerator(cpu=True)
    meter = LossMeter(accelerator)
    one = torch.tensor(1.0)
    for loss in (1.0, float("nan"), 4.0):
        meter.add(StepResult(torch.tensor(loss), one if np.isfinite(loss) else torch.tensor(float("nan"))))
    assert meter.state() == (5.0, 2)
    again = LossMeter(accelerator, *meter.state())
    again.add(StepResult(torch.tensor(1.0), one))
    assert again.read() == pytest.approx(2.0)
    assert np.isnan(again.read())
