"""SEGA: the gate, the reset, the recurrence and what gradients reach (section 10 of the spec; O numbers are its)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robopolicy.core.errors import ConfigError
from robopolicy.encoders.config import TemporalConfig
from robopolicy.encoders.memory import Memory
from robopolicy.encoders.sega import Sega, blend, mean_score
from robopolicy.encoders.temporal import TemporalEncoder, make_projection

TO, DIM, STATES = 3, 16, 5


def config(**changes) -> TemporalConfig:
    small = {"num_state": STATES, "dim": DIM, "depth": 2, "heads": 2}
    return TemporalConfig(**{**small, **changes})


def sega(seed: int = 0, **changes) -> Sega:
    torch.manual_seed(seed)
    return Sega(config(**changes), TO).eval()


def encoder(**changes) -> TemporalEncoder:
    torch.manual_seed(0)
    return TemporalEncoder(config(**changes), TO)


def observations(rows: int, steps: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, steps, TO, DIM, generator=torch.Generator().manual_seed(seed))


def carried(state: torch.Tensor) -> Memory:
    return Memory(state, torch.zeros(len(state), dtype=torch.bool))


def walk(module: Sega, tokens: torch.Tensor, memory: Memory | None = None):
    """Tokens ``(B, steps, To, D)`` step by step: enhanced tokens, states and gates, each ``(B, steps, ...)``."""
    steps = []
    for window in tokens.unbind(1):
        steps.append(module(window, memory))
        memory = carried(steps[-1].state)
    return [torch.stack(part, 1) for part in zip(*steps, strict=True)]


# -------------------------------------------------------------------------------------------------------- gate


def test_the_gate_is_the_sigmoid_of_the_mean_raw_score():  # O2
    scores = torch.tensor(
        [[[0.3, -0.6, 0.9], [1.2, 0.0, -1.2]], [[-0.3, 0.6, -0.9], [2.4, 0.6, 0.0]]]
    )  # heads, states, observations
    query, key = scores[None] * 3**0.5, torch.eye(3).expand(1, 2, 3, 3)  # q.k / sqrt(3) is the score
    mean = mean_score(query, key)
    torch.testing.assert_close(mean, torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(torch.sigmoid(mean), torch.tensor([[0.5, 0.622459]]))


def test_after_the_softmax_the_mean_would_say_nothing():  # O8
    scores = torch.randn(4, 2, STATES, TO)
    torch.testing.assert_close(scores.softmax(-1).mean(-1), torch.full((4, 2, STATES), 1 / TO))
    query, key = torch.randn(4, 2, STATES, 8), torch.randn(4, 2, TO, 8)
    torch.testing.assert_close(mean_score(query, key), (query @ key.mT / 8**0.5).mean(-1).mean(1))
    assert float(mean_score(query, key).std()) > 0.1


@pytest.mark.parametrize(("bias", "value", "slack"), [(0.0, 0.5, 0.03), (-2.0, 0.1192, 0.02)])
def test_gates_begin_where_the_bias_puts_them(bias, value, slack):  # O9, at the paper's width
    module = Sega(TemporalConfig(gate_bias=bias, num_state=60, dim=256, heads=8, depth=2, frame_pos=False), TO)
    tokens = nn.functional.layer_norm(torch.randn(2, TO, 256, generator=torch.Generator().manual_seed(0)), (256,))
    with torch.no_grad():
        gate = module(tokens, carried(module.initial.expand(2, -1, -1))).gate
    assert abs(float(gate.mean()) - value) < slack


def test_a_shut_gate_keeps_the_state_and_an_open_one_replaces_it():  # O3
    old, candidate = torch.randn(2, STATES, DIM), torch.randn(2, STATES, DIM)
    assert torch.equal(blend(torch.zeros(2, STATES), candidate, old), old)
    assert torch.equal(blend(torch.ones(2, STATES), candidate, old), candidate)
    new = blend(torch.rand(2, STATES), candidate, old)
    low, high = torch.minimum(old, candidate), torch.maximum(old, candidate)
    assert bool(((new >= low - 1e-6) & (new <= high + 1e-6)).all())


@torch.no_grad()
def test_the_state_moves_as_far_as_the_gate_says():  # O3, in the module
    tokens, old = observations(2, 1)[:, 0], carried(torch.randn(2, STATES, DIM))
    shut, opened = sega(gate_bias=-1e6)(tokens, old), sega(gate_bias=1e6)(tokens, old)
    assert torch.equal(shut.state, old.state)
    half = sega(gate_bias=0.0)(tokens, old)
    torch.testing.assert_close(half.state, blend(half.gate, opened.state, old.state))


# -------------------------------------------------------------------------------------------- reset, recurrence


@torch.no_grad()
def test_a_fresh_row_begins_an_episode_and_touches_no_other():  # O4
    module, tokens = sega(), observations(3, 1)[:, 0]
    state = torch.randn(3, STATES, DIM)
    fresh = torch.tensor([False, True, False])
    mixed, new, kept = module(tokens, Memory(state, fresh)), module(tokens), module(tokens, carried(state))
    assert torch.equal(mixed.gate[1], torch.ones(STATES))
    assert bool((mixed.gate[[0, 2]] < 1).all())
    for part, begun, went_on in zip(mixed, new, kept, strict=True):
        torch.testing.assert_close(part[1], begun[1])
        torch.testing.assert_close(part[[0, 2]], went_on[[0, 2]])
        assert not torch.allclose(begun[0], went_on[0])


@torch.no_grad()
def test_the_first_state_is_the_candidate():  # O4
    tokens = observations(2, 1)[:, 0]
    torch.testing.assert_close(sega(gate_bias=-9.0)(tokens).state, sega(gate_bias=9.0)(tokens).state)


@torch.no_grad()
def test_unrolled_equals_step_by_step_in_any_pieces():  # O5
    whole, tokens = encoder(), observations(2, 20)
    together = whole(tokens.flatten(0, 1), None, chain=20)
    singly = walk(whole.sega, tokens)
    first = whole(tokens[:, :7].flatten(0, 1), None, 7)
    second = whole(tokens[:, 7:].flatten(0, 1), carried(first.state.unflatten(0, (2, 7))[:, -1]), 13)
    for part, steps, a, b in zip(together, singly, first, second, strict=True):
        torch.testing.assert_close(part.unflatten(0, (2, 20)), steps, atol=1e-6, rtol=0)
        pieces = torch.cat([a.unflatten(0, (2, 7)), b.unflatten(0, (2, 13))], 1)
        torch.testing.assert_close(pieces, steps, atol=1e-6, rtol=0)


@torch.no_grad()
def test_only_the_past_counts_and_its_size_does_not():  # O6, O1
    module, tokens = sega(), observations(1, 12)
    moved = tokens.clone()
    moved[:, 5] += torch.randn(TO, DIM, generator=torch.Generator().manual_seed(9))
    before, after = walk(module, tokens), walk(module, moved)
    assert torch.equal(before[0][:, :5], after[0][:, :5])
    assert bool(((before[0] - after[0]).abs().amax(dim=(0, 2, 3)) > 1e-5)[5:].all())
    assert {tuple(s.shape) for s in before[1].unbind(1)} == {(1, STATES, DIM)}


@torch.no_grad()
def test_the_state_stays_bounded_however_long_the_episode():  # O1
    norms = walk(sega(), observations(1, 200))[1].flatten(2).norm(dim=-1)[0]
    assert float(norms[100:].max()) < 2 * float(norms[:10].max())


# ---------------------------------------------------------------------------------------------------- symmetry


@torch.no_grad()
def test_without_a_frame_code_the_order_of_frames_only_permutes_the_tokens():  # O7
    tokens, old, order = observations(2, 1)[:, 0], carried(torch.randn(2, STATES, DIM)), torch.tensor([2, 0, 1])
    plain, turned = sega(frame_pos=False)(tokens, old), sega(frame_pos=False)(tokens[:, order], old)
    for name in ("state", "gate"):
        torch.testing.assert_close(getattr(turned, name), getattr(plain, name), atol=2e-6, rtol=0)
    torch.testing.assert_close(turned.tokens, plain.tokens[:, order], atol=2e-6, rtol=0)
    coded = sega(frame_pos=True)
    assert not torch.allclose(coded(tokens, old).state, coded(tokens[:, order], old).state, atol=1e-5)


@torch.no_grad()
def test_the_order_of_state_tokens_means_nothing():  # O7
    module, tokens, state = sega(), observations(2, 1)[:, 0], torch.randn(2, STATES, DIM)
    order = torch.randperm(STATES, generator=torch.Generator().manual_seed(0))
    plain, turned = module(tokens, carried(state)), module(tokens, carried(state[:, order]))
    torch.testing.assert_close(turned.state, plain.state[:, order], atol=2e-6, rtol=0)
    torch.testing.assert_close(turned.tokens, plain.tokens, atol=2e-6, rtol=0)


@torch.no_grad()
def test_the_position_table_only_moves_the_first_state():  # O10
    module, tokens = sega(state_pos=True), observations(2, 4)
    before = walk(module, tokens)[0]
    shift = torch.randn(STATES, DIM)
    module.initial += shift
    module.positions -= shift
    torch.testing.assert_close(walk(module, tokens)[0], before, atol=1e-5, rtol=0)
    module.initial += shift
    assert not torch.allclose(walk(module, tokens)[0], before, atol=1e-3)


# ---------------------------------------------------------------------------------------------------- gradients


def gradients(steps: int, tbptt: int | None) -> dict[str, bool]:
    """Which parameters of the recurrence learn from the last window of a chain."""
    module = encoder(tbptt=tbptt)
    out = module(observations(2, steps).flatten(0, 1), None, steps).tokens.unflatten(0, (2, steps))[:, -1]
    out.square().mul(torch.linspace(0, 1, DIM)).sum().backward()
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in module.sega.named_parameters()}


def test_one_window_of_truncation_starves_what_decides_to_remember():  # O12
    last = "state_blocks.1.mlp.up.weight"
    short, longer = gradients(2, tbptt=1), gradients(2, tbptt=2)
    assert not any(on for name, on in short.items() if name.startswith(("state_blocks.1.", "norm_state")))
    assert longer[last]
    assert longer["norm_state.weight"]
    # An earlier layer of the stream is read within the same step; the first state is beyond the cut.
    assert short["state_blocks.0.mlp.up.weight"]
    assert not short["initial"]
    assert longer["initial"]
    assert all(on for name, on in gradients(3, tbptt=None).items() if not name.endswith("key_value.bias"))


def test_the_gradient_through_a_carried_state_is_the_finite_difference():  # O12
    module = encoder(tbptt=None).double()
    tokens, weight = observations(1, 3).double().flatten(0, 1), module.sega.state_blocks[1].mlp.up.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)).double()

    def loss() -> torch.Tensor:
        last = module(tokens, None, 3).tokens[-1]
        return (last * torch.linspace(-1, 1, DIM).double()).square().sum()

    loss().backward()
    slope = float((weight.grad * direction).sum())
    values, step = [], 1e-5
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
            values.append(float(loss()))
            weight -= sign * step * direction
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)
    assert abs(slope) > 1e-6


def test_a_frozen_recurrence_offers_nothing_to_the_optimiser():
    assert not any(p.requires_grad for p in encoder(frozen=True).parameters())


# -------------------------------------------------------------------------------------------------- the projection


def test_the_projection_is_linear_or_the_papers_perceptron():
    assert [type(m).__name__ for m in make_projection(7, config())] == ["Linear", "LayerNorm"]
    papers = make_projection(526, TemporalConfig(proj_hidden=512))
    assert [type(m).__name__ for m in papers] == ["Linear", "GELU", "Dropout", "Linear", "LayerNorm"]
    assert sum(p.numel() for p in papers.parameters()) == 11_578_176 - 11_176_512


@pytest.mark.parametrize("changes", [{"num_state": 0}, {"heads": 3}, {"tbptt": 0}, {"proj_dropout": 1.0}])
def test_impossible_options_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes)).replace("heads", "multiple of heads")):
        config(**changes)


def test_rows_that_are_no_chains_are_refused():
    with pytest.raises(ConfigError, match="5 windows are no chains of 2"):
        encoder()(torch.zeros(5, TO, DIM), None, 2)


# ------------------------------------------------------------------------------------------- what it can remember

DELAY = 29


def cued(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A sign shown once, flagged, then noise three times as strong in its place for ``DELAY`` steps."""
    tokens = 3.0 * torch.randn(rows, DELAY + 1, TO, 3, generator=generator)
    sign = (torch.rand(rows, generator=generator) < 0.5).float()
    tokens[..., 1] = 0.0
    tokens[:, 0, :, :2] = torch.stack([2 * sign - 1, torch.ones(rows)], -1)[:, None]
    return tokens, sign


def recall(**changes) -> float:
    """Share of signs a linear readout tells after 60 optimiser steps on 16 sequences each."""
    torch.manual_seed(0)
    options = config(num_state=4, depth=1, heads=4, **changes)
    parts = nn.ModuleList([make_projection(3, options), TemporalEncoder(options, TO), nn.Linear(TO * DIM, 1)])
    learned = [p for p in parts.parameters() if p.requires_grad]
    optimizer, generator = torch.optim.Adam(learned, 3e-3), torch.Generator().manual_seed(0)

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        seen = parts[1](parts[0](tokens.flatten(0, 1)), None, DELAY + 1).tokens.unflatten(0, (-1, DELAY + 1))
        return parts[2](seen[:, -1].flatten(1))[:, 0]

    for _ in range(60):
        tokens, sign = cued(16, generator)
        loss = nn.functional.binary_cross_entropy_with_logits(logits(tokens), sign)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
    with torch.no_grad():
        tokens, sign = cued(512, generator)
        return float(((logits(tokens) > 0) == (sign > 0.5)).float().mean())


@pytest.mark.slow
def test_long_noisy_recall_is_learned_through_time():  # O18
    # Measured: 1.00, 0.86 and 0.61; the first with the default gate, the others as released.
    assert recall() >= 0.95
    assert recall(gate_bias=0.0, tbptt=1) < 0.95
    assert recall(gate_bias=0.0, frozen=True) < 0.8
