"""The moving average: decay oracle, parity with diffusers, and what is copied instead of averaged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robopolicy.training.config import EMAConfig
from robopolicy.training.ema import EMA, ema_decay

CONFIG = EMAConfig()


@pytest.mark.parametrize(
    ("call", "decay"),
    [
        (0, 0.0), (1, 0.0), (2, 0.405396), (3, 0.561309), (11, 0.834440), (101, 0.968612), (1001, 0.994381),
        (10001, 0.999000), (100001, 0.999822), (215_450, 0.9999), (1_000_000, 0.9999),
    ],
)  # fmt: skip
def test_decay_oracle(call, decay):
    assert ema_decay(call, CONFIG) == pytest.approx(decay, abs=5e-7)


@pytest.mark.parametrize(
    ("update", "decay"), [(1, 0.1818), (10, 0.55), (100, 0.918), (1000, 0.991), (8991, 0.999), (10**6, 0.999)]
)
def test_ratio_schedule(update, decay):
    config = EMAConfig(schedule="ratio", max_decay=0.999)
    assert ema_decay(update - 1, config) == pytest.approx(decay, abs=5e-4)
    live = nn.Linear(1, 1, bias=False)
    average = EMA(live, config, calls=update - 1)
    before = float(average.model.weight.detach())
    with torch.no_grad():
        live.weight += 1.0
    average.update()
    assert float(average.model.weight.detach()) - before == pytest.approx(1 - decay, abs=5e-4)


def test_the_cap_is_reached_where_it_should():
    assert ema_decay(215_430, CONFIG) < 0.9999
    assert ema_decay(215_450, CONFIG) == 0.9999


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def perturb(model):
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += torch.randn_like(p)
    model(torch.randn(16, 4))  # moves the running statistics


def test_parity_with_diffusers():
    from diffusers.training_utils import EMAModel

    live = nn.Linear(5, 3)
    ours = EMA(live, CONFIG)
    # diffusers counts the update before it takes the decay, the reference after: hence one update later.
    theirs = EMAModel(
        live.parameters(), decay=0.9999, update_after_step=1, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    for _ in range(40):
        perturb_linear(live)
        ours.update()
        theirs.step(live.parameters())
    for a, b in zip(ours.model.parameters(), theirs.shadow_params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def perturb_linear(model):
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p)


def test_batch_norm_buffers_and_frozen_parameters_follow_the_live_model():
    live = small_model()
    live[2].bias.requires_grad_(False)
    ema = EMA(live, CONFIG)
    for _ in range(5):
        perturb(live)
        ema.update()
    with torch.no_grad():
        live[2].bias += 1.0  # frozen for the optimiser, changed by hand
    average = ema.refresh()
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "2.bias"):
        assert torch.equal(average.state_dict()[name], live.state_dict()[name]), name
    for name in ("0.weight", "0.bias", "2.weight"):
        assert not torch.equal(average.state_dict()[name], live.state_dict()[name]), name
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


def test_the_average_is_the_recursion():
    live = nn.Linear(2, 1, bias=False)
    ema = EMA(live, CONFIG)
    want = live.weight.detach().clone()
    for call in range(6):
        perturb_linear(live)
        decay = ema_decay(call, CONFIG)
        want = decay * want + (1 - decay) * live.weight.detach()
        ema.update()
    torch.testing.assert_close(ema.model.weight, want)
    assert ema.calls == 6


def test_disabled_means_the_live_weights():
    live = nn.Linear(2, 2)
    ema = EMA(live, EMAConfig(enabled=False))
    for _ in range(4):
        perturb_linear(live)
        ema.update()
    assert torch.equal(ema.model.weight, live.weight)


def test_continuing_needs_the_counter():
    live = nn.Linear(2, 2)
    first = EMA(live, CONFIG)
    for _ in range(10):
        perturb_linear(live)
        first.update()
    continued = EMA(live, CONFIG, first.model, first.calls)
    before = continued.model.weight.clone()
    perturb_linear(live)
    continued.update()
    torch.testing.assert_close(
        continued.model.weight, torch.lerp(before, live.weight.detach(), 1 - ema_decay(10, CONFIG))
    )


def test_a_parameter_that_gets_other_memory_is_still_followed():
    """Data-parallel wrappers do this to the parameters of a model that is averaged already."""
    live = nn.Linear(2, 2)
    ema = EMA(live, CONFIG)
    live.weight.data = torch.full((2, 2), 3.0)
    ema.update()
    assert torch.equal(ema.model.weight, live.weight)
