"""BESO's interleaved transformer: published sizes, who sees whom, positions, shared embedding, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.nets.gpt import DiffusionGPT

# action, state, window, goals, layers, heads, width: published parameter count (spec section 3)
PUBLISHED = [((9, 30, 4, 2, 6, 6, 360), 9_381_249), ((2, 10, 5, 1, 4, 12, 240), 2_783_762)]


def closed_form(a: int, o: int, t: int, g: int, layers: int, d: int) -> int:
    block = 4 * d + 4 * (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)
    return layers * block + (o + 1) * d + (a + 1) * d + 2 * d + (g + t + 1) * d + 2 * d + (d + 1) * a


@pytest.mark.parametrize(("size", "count"), PUBLISHED)
def test_parameter_counts_of_the_paper(size, count):
    a, o, t, g, layers, heads, d = size
    with torch.device("meta"):
        net = DiffusionGPT(a, o, t, t, g, layers, heads, d)
    assert sum(p.numel() for p in net.parameters()) == count == closed_form(a, o, t, g, layers, d)


def test_closed_form_for_chunks():
    net = DiffusionGPT(3, 7, 12, 2, 1, 2, 2, 16)
    assert sum(p.numel() for p in net.parameters()) == closed_form(3, 7, 12, 1, 2, 16)


def make(horizon: int = 4, n_obs_steps: int = 4, n_goals: int = 2) -> DiffusionGPT:
    torch.manual_seed(0)
    net = DiffusionGPT(3, 5, horizon, n_obs_steps, n_goals, 2, 2, 16, p_drop_attn=0.0).eval()
    with torch.no_grad():  # a fresh network hardly listens: make every path loud
        for p in net.parameters():
            p.normal_(std=0.3)
    return net


def inputs(net: DiffusionGPT) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, net.horizon, 3, generator=g)
    return x, torch.tensor([0.2, -0.4]), torch.randn(2, net.n_goals + net.n_obs_steps, 5, generator=g)


def moved(net: DiffusionGPT, x: Tensor, t: Tensor, cond: Tensor) -> list[bool]:
    """Steps whose output differs from that of ``inputs``."""
    with torch.no_grad():
        change = (net(x, t, cond) - net(*inputs(net))).abs().amax(dim=(0, 2))
    return [bool(c > 1e-5) for c in change]


@pytest.mark.parametrize(("horizon", "n_obs_steps"), [(4, 4), (6, 2), (5, 1)])
def test_causality(horizon, n_obs_steps):
    net = make(horizon, n_obs_steps)
    x, t, cond = inputs(net)
    for step in range(horizon):
        other = x.clone()
        other[:, step] += 1.0
        assert moved(net, other, t, cond) == [s >= step for s in range(horizon)], f"action {step}"
    for state in range(n_obs_steps):
        other = cond.clone()
        other[:, net.n_goals + state] += 1.0
        assert moved(net, x, t, other) == [s >= state for s in range(horizon)], f"state {state}"
    for goal in range(net.n_goals):
        other = cond.clone()
        other[:, goal] += 1.0
        assert all(moved(net, x, t, other)), f"goal {goal}"
    assert all(moved(net, x, t + 0.5, cond))


def test_goals_and_states_share_their_embedding():
    net = make()
    names = {name.split(".")[0] for name, _ in net.named_parameters()}
    assert names == {"embed_label", "embed_step", "embed_action", "position", "layers", "norm", "head"}
    seen: list[int] = []
    net.embed_step.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[1]))
    net(*inputs(net))
    assert seen == [net.n_goals + net.n_obs_steps]


def test_positions():
    """Goals take rows 0..G-1, a state and its action both row G + step, further actions count on; the last is spare."""
    net = make(horizon=5, n_obs_steps=2, n_goals=2)
    assert net.rows.tolist() == [0, 1, 2, 2, 3, 3, 4, 5, 6]
    assert net.is_action.tolist() == [False, False, False, True, False, True, True, True, True]
    assert net.position.shape == (1, 8, 16)
    net(*inputs(net)).sum().backward()
    used = net.position.grad.abs().sum(-1)[0] > 0
    assert used.tolist() == [True] * 7 + [False]


def test_one_label_for_all_rows():
    net = make()
    x, _, cond = inputs(net)
    with torch.no_grad():
        torch.testing.assert_close(net(x, torch.tensor(0.3), cond), net(x, torch.tensor([0.3, 0.3]), cond))


def test_dropout_is_where_the_paper_has_it():
    net = DiffusionGPT(3, 5, 4, 4, 0, 2, 2, 16, p_drop_attn=0.3, p_drop_resid=0.1)
    for layer in net.layers:
        assert (layer.self_attention.dropout, layer.drop.p, layer.mlp.drop.p) == (0.3, 0.1, 0.0)


def test_what_decays():
    net = make()
    decay, rest = net.optim_groups(0.1)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim == 2 for p in decay["params"])
    assert len(decay["params"]) + len(rest["params"]) == len(list(net.parameters()))
    assert any(p is net.position for p in rest["params"])


@pytest.mark.parametrize(
    ("horizon", "channels", "tokens", "message"),
    [(5, 3, 6, "horizon"), (4, 2, 6, "gpt input"), (4, 3, 5, "gpt condition")],
)
def test_shapes_that_do_not_fit_are_refused(horizon, channels, tokens, message):
    with pytest.raises(ConfigError, match=message):
        make()(torch.zeros(2, horizon, channels), torch.zeros(2), torch.zeros(2, tokens, 5))


def test_windows_longer_than_the_chunk_are_refused():
    with pytest.raises(ConfigError, match="1 <= n_obs_steps <= horizon"):
        DiffusionGPT(3, 5, 2, 3)
