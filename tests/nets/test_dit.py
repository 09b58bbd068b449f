"""DiT: published parameter counts, adaLN-Zero at the start, rotary attention, tables equal the network."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.nets.dit import Dit, step_code
from robopolicy.nets.rotary3d import rotate

COUNTS = [
    ({"input_dim": 7, "cond_dim": 4110, "horizon": 32, "n_layer": 6, "n_head": 8, "n_emb": 512}, 99_665_159),
    ({"input_dim": 7, "cond_dim": 4110, "horizon": 48, "n_layer": 8, "n_head": 12, "n_emb": 768}, 217_937_927),
    ({"input_dim": 7, "cond_dim": 4622, "horizon": 48, "n_layer": 8, "n_head": 12, "n_emb": 768}, 236_812_295),
    (
        {"input_dim": 2, "cond_dim": 132, "horizon": 16, "n_layer": 2, "n_head": 2, "n_emb": 64, "step_embed_dim": 32},
        230_690,
    ),
]


def small(seed: int = 0, **changes) -> Dit:
    torch.manual_seed(seed)
    return Dit(2, 5, 8, **{"n_layer": 2, "n_head": 2, "n_emb": 16, "step_embed_dim": 8, **changes}).eval()


def awake(**changes) -> Dit:
    """With modulations away from zero."""
    net = small(**changes)
    for block in net.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.3)
        torch.nn.init.normal_(block.modulation.bias, std=0.3)
    return net


@pytest.mark.parametrize(("sizes", "count"), COUNTS)
def test_parameter_counts_to_the_unit(sizes, count):
    with torch.device("meta"):
        net = Dit(**sizes)
    assert sum(p.numel() for p in net.parameters()) == count


def test_the_start_is_blind_to_time_and_condition_and_training_ends_that():
    net, x = small(), torch.randn(3, 8, 2)
    cond = torch.randn(3, 5)
    out = net(x, torch.tensor([1.0, 50.0, 99.0]), cond)
    torch.testing.assert_close(net(x, 7.0, -cond), out)
    assert not torch.allclose(net(-x, 7.0, cond), out)
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    for _ in range(2):  # the first step opens the gates, the second the way through them
        optimizer.zero_grad()
        net(x, 7.0, cond).square().mean().backward()
        optimizer.step()
    assert not torch.allclose(net(x, 7.0, cond), net(x, 7.0, -cond), atol=1e-6)
    assert not torch.allclose(net(x, 7.0, cond), net(x, 70.0, cond), atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"positions": True}])
def test_tables_give_what_the_network_gives(changes):
    net, x, cond = awake(**changes), torch.randn(3, 8, 2), torch.randn(3, 5)
    times = torch.tensor([0.0, 30.0, 77.7])
    with torch.no_grad():
        cache = net.prepare(cond, times)
        for step, t in enumerate(times):
            torch.testing.assert_close(net.forward_cached(x, step, cache), net(x, t, cond), atol=1e-5, rtol=1e-5)
        one = net.forward_cached(x[:1], 1, net.prepare(cond[:1], times))
    torch.testing.assert_close(one, net(x, times[1], cond)[:1], atol=1e-5, rtol=1e-5)


def test_without_a_condition():
    net = Dit(2, 0, 8, n_layer=1, n_head=2, n_emb=16, step_embed_dim=8).eval()
    x = torch.randn(2, 8, 2)
    torch.testing.assert_close(net.forward_cached(x, 0, net.prepare(None, torch.tensor([3.0]))), net(x, 3.0))


def test_rotary_scores_depend_on_distance_only_and_order_matters():
    code = step_code(12, 8)
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    turned_q, turned_k = rotate(q.expand(1, 12, 8), code)[0], rotate(k.expand(1, 12, 8), code)[0]
    scores = turned_q @ turned_k.T
    for gap in range(-5, 6):
        diagonal = scores.diagonal(gap)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    assert scores.diagonal(0)[0] != pytest.approx(scores.diagonal(3)[0].item(), abs=1e-3)
    net, x, cond = awake(), torch.randn(1, 8, 2), torch.randn(1, 5)
    with torch.no_grad():
        turned = net(x.flip(1), 3.0, cond).flip(1)
    assert not torch.allclose(turned, net(x, 3.0, cond), atol=1e-3)  # without positions these were equal


def test_rows_do_not_meet():
    net, x, cond = awake(), torch.randn(4, 8, 2), torch.randn(4, 5)
    with torch.no_grad():
        torch.testing.assert_close(net(x, 3.0, cond)[2:3], net(x[2:3], 3.0, cond[2:3]), atol=1e-5, rtol=1e-5)


def test_biases_and_positions_do_not_decay():
    net = small(positions=True)
    decayed, rest = net.optim_groups(0.1)
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(m.weight) for m in net.modules() if hasattr(m, "weight")}
    assert len(decayed["params"]) + len(rest["params"]) == len(list(net.parameters()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(n_emb=18, n_head=2), "multiple of 2"),
        (lambda: small()(torch.zeros(1, 9, 2), 0.0, torch.zeros(1, 5)), "built for 1..8"),
        (lambda: small()(torch.zeros(1, 8, 3), 0.0, torch.zeros(1, 5)), r"expected \(N, H, 2\)"),
        (lambda: small()(torch.zeros(1, 8, 2), 0.0, torch.zeros(1, 4)), "cond_dim"),
    ],
)
def test_bad_shapes_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
