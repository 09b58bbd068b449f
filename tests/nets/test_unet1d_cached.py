import threading

import pytest
import torch
from torch.nn import functional as F

from robopolicy.nets import packed
from robopolicy.nets.ops import ChannelsFirstOps
from robopolicy.nets.recorder import Recorder, WeightStore
from robopolicy.nets.unet1d import ConditionalUnet1d

TIMES = torch.arange(90, -1, -10)


def network(**changes):
    torch.manual_seed(0)
    options = {"down_dims": (16, 32, 64), "step_embed_dim": 16, **changes}
    return ConditionalUnet1d(3, 5, **options).eval()


def reference(net, x, t, cond):
    """The network by torch's own convolutions, nothing cached."""
    vector = net.step_embedding(torch.full((len(x),), t))
    active = F.mish(vector if cond is None else torch.cat((vector, cond), dim=-1))
    return net.traverse(ChannelsFirstOps(), x, [b.modulation(b.film(active)) for b in net.residual_blocks()])


@pytest.mark.parametrize("horizon", [4, 8, 16])
@pytest.mark.parametrize("n", [1, 2, 8, 40])
@pytest.mark.parametrize("scale", [True, False])
def test_cached_steps_equal_the_plain_network(horizon, n, scale):
    net = network(cond_predict_scale=scale)
    x, cond = torch.randn(n, horizon, 3), torch.randn(n, 5)
    with torch.no_grad():
        cache = net.prepare(cond, TIMES)
        for step in (0, 4, 9):
            want = reference(net, x, TIMES[step].item(), cond)
            torch.testing.assert_close(net.forward_cached(x, step, cache), want, atol=1e-5, rtol=0)
            torch.testing.assert_close(net(x, TIMES[step], cond), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("largest", [1e-3, 30.0, 1e4])
def test_normalised_features_of_any_size_go_through_mish(n, largest):
    norm, h = torch.nn.GroupNorm(2, 16), torch.randn(n, 4, 16)
    torch.nn.init.constant_(norm.weight, largest)
    torch.nn.init.constant_(norm.bias, -largest / 2)
    with torch.no_grad():
        recorder = Recorder(WeightStore(torch.float32, ()), n)
        out = recorder.norm(norm, h, None)
        for step in recorder.steps:
            step()
        want = F.mish(norm(h.transpose(1, 2)).double()).transpose(1, 2)
    assert (out - want).abs().max() <= 1e-6 * largest


def test_unconditional_and_single_level_networks():
    for net in (ConditionalUnet1d(3, 0, (16, 32), step_embed_dim=16).eval(), network(down_dims=(16,))):
        x, cond = torch.randn(2, 8, 3), torch.randn(2, 5) if net.global_cond_dim else None
        with torch.no_grad():
            cache = net.prepare(cond, TIMES)
            want = reference(net, x, 50, cond)
            torch.testing.assert_close(net.forward_cached(x, 4, cache), want, atol=1e-5, rtol=0)


def test_wide_layers_use_the_blocked_layout_and_agree(monkeypatch):
    monkeypatch.setattr(packed, "BLOCKED_FROM", 1)
    net, x, cond = network(), torch.randn(1, 8, 3), torch.randn(1, 5)
    with torch.no_grad():
        want = reference(net, x, 50, cond)
        got = net.forward_cached(x, 4, net.prepare(cond, TIMES))
        assert any(m._blocked is not None for m in net._store.matrices.values()) == packed.has_blocked_linear()
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_without_the_blocked_operator_the_plain_product_serves(monkeypatch):
    monkeypatch.setattr(packed, "BLOCKED_FROM", 1)
    monkeypatch.setattr(packed, "has_blocked_linear", lambda: False)
    net, x, cond = network(), torch.randn(1, 8, 3), torch.randn(1, 5)
    with torch.no_grad():
        want = reference(net, x, 50, cond)
        torch.testing.assert_close(net.forward_cached(x, 4, net.prepare(cond, TIMES)), want, atol=1e-5, rtol=0)
        net.inference_dtype = torch.bfloat16
        assert (net.forward_cached(x, 4, net.prepare(cond, TIMES)) - want).abs().max() < 0.05


@pytest.mark.parametrize("n", [1, 40])
def test_bfloat16_weights_are_near(n):
    net, x, cond = network(), torch.randn(n, 16, 3), torch.randn(n, 5)
    with torch.no_grad():
        want = reference(net, x, 50, cond)
        net.inference_dtype = torch.bfloat16
        got = net.forward_cached(x, 4, net.prepare(cond, TIMES))
    assert got.dtype == torch.float32
    assert 0 < (got - want).abs().max() < 0.1 * want.std()


def _optimiser_step(net):
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.randn(9, 8, 3), 1, torch.randn(9, 5)).square().mean().backward()
    optimizer.step()
    net.eval()


CHANGES = {
    "optimiser": _optimiser_step,
    "load": lambda net: net.load_state_dict({k: v * 1.5 for k, v in net.state_dict().items()}),
    "in place": lambda net: [p.mul_(1.5) for p in net.parameters()],
    "lerp (EMA)": lambda net: torch._foreach_lerp_(list(net.parameters()), [p + 1 for p in net.parameters()], 0.1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_follow_the_weights(change, dtype, monkeypatch):
    monkeypatch.setattr(packed, "BLOCKED_FROM", 1)
    net, x, cond = network(), torch.randn(1, 8, 3), torch.randn(1, 5)
    net.inference_dtype = dtype
    with torch.no_grad():
        before = net.forward_cached(x, 4, net.prepare(cond, TIMES))
    if change == "optimiser":
        CHANGES[change](net)
    else:
        with torch.no_grad():
            CHANGES[change](net)
    with torch.no_grad():
        after, want = net.forward_cached(x, 4, net.prepare(cond, TIMES)), reference(net, x, 50, cond)
    assert (after - before).abs().max() > 1e-2
    atol = 1e-5 if dtype == torch.float32 else 0.1 * want.std().item()
    torch.testing.assert_close(after, want, atol=atol, rtol=1e-5)


def test_two_caches_may_be_used_in_turn():
    net, x = network(), torch.randn(2, 8, 3)
    conds = [torch.randn(2, 5) for _ in range(2)]
    with torch.no_grad():
        caches = [net.prepare(c, TIMES) for c in conds]
        for step in (3, 0):
            for cond, cache in zip(conds, caches, strict=True):
                want = reference(net, x, TIMES[step].item(), cond)
                torch.testing.assert_close(net.forward_cached(x, step, cache), want, atol=1e-5, rtol=0)


def test_results_are_not_overwritten_by_the_next_step():
    net, x, cond = network(), torch.randn(2, 8, 3), torch.randn(2, 5)
    cache = net.prepare(cond, TIMES)
    first = net.forward_cached(x, 0, cache)
    kept = first.clone()
    net.forward_cached(x * 2, 1, cache)
    assert torch.equal(first, kept)


def test_recorded_in_inference_mode_and_used_outside():
    net, x, cond = network(), torch.randn(2, 8, 3), torch.randn(2, 5)
    with torch.inference_mode():
        first = net.forward_cached(x, 2, net.prepare(cond, TIMES))
    with torch.no_grad():
        assert torch.equal(net.forward_cached(x, 2, net.prepare(cond, TIMES)), first)


def test_network_and_grid_made_in_inference_mode():
    with torch.inference_mode():
        net, times, x, cond = network(), torch.arange(5), torch.randn(2, 8, 3), torch.randn(2, 5)
        got = net.forward_cached(x, 2, net.prepare(cond, times))
        torch.testing.assert_close(got, reference(net, x, 2, cond), atol=1e-5, rtol=0)


def test_threads_have_their_own_buffers():
    net, answers = network(), {}
    inputs = {i: (torch.randn(2, 8, 3), torch.randn(2, 5)) for i in range(3)}
    caches = {i: net.prepare(cond, TIMES) for i, (_, cond) in inputs.items()}

    def work(i):
        answers[i] = [net.forward_cached(inputs[i][0], 4, caches[i]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(i,)) for i in inputs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    with torch.no_grad():
        for i, (x, cond) in inputs.items():
            want = reference(net, x, 50, cond)
            for got in answers[i]:
                torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_time_table_is_kept_for_the_same_grid_only():
    net, cond = network(), torch.randn(1, 5)
    times = TIMES.clone()
    first = net.prepare(cond, times).by_time
    assert net.prepare(cond, times).by_time is first
    times += 1
    assert not torch.equal(net.prepare(cond, times).by_time, first)


def test_gradients_flow_through_the_plain_call_in_eval_mode():
    net, x = network(), torch.randn(2, 8, 3, requires_grad=True)
    net(x, 3, torch.randn(2, 5)).sum().backward()
    assert x.grad.abs().sum() > 0


def test_float64_networks_are_not_recorded():
    net = network().double()
    x, cond = torch.randn(2, 8, 3).double(), torch.randn(2, 5).double()
    with torch.no_grad():
        got = net.forward_cached(x, 4, net.prepare(cond, TIMES))
        torch.testing.assert_close(got, reference(net, x, 50, cond), atol=1e-5, rtol=0)
        assert not net._store.programs


def test_programs_kept_are_bounded():
    net = network(down_dims=(16,))
    with torch.no_grad():
        for n in range(1, 40):
            net(torch.randn(n, 4, 3), 0, torch.randn(n, 5))
    assert 0 < len(net._store.programs) <= 32
