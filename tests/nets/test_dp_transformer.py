import copy

import pytest
import torch
from torch import nn

from robopolicy.core.errors import ConfigError
from robopolicy.nets.attention import DecoderLayer
from robopolicy.nets.dp_transformer import DPTransformer
from robopolicy.nets.masks import causal_mask, condition_mask

# (input dim, condition dim, horizon, observation steps, width, parameters), 8 layers, 4 heads: spec 3.2, from the
# published class; the last row is real PushT (two cameras of 64 features and a 2-D position).
COUNTS = [
    (2, 20, 16, 2, 256, 8_965_122),
    (2, 16, 5, 3, 256, 8_961_538),
    (9, 60, 16, 4, 768, 80_415_753),
    (10, 137, 10, 2, 256, 8_997_642),
    (2, 66, 10, 2, 256, 8_975_362),
    (2, 66, 16, 2, 256, 8_976_898),
    (20, 274, 10, 2, 256, 9_037_844),
    (2, 130, 16, 2, 768, 80_457_218),
]


def tiny(**changes):
    torch.manual_seed(0)
    options = {"cond_dim": 4, "horizon": 8, "n_obs_steps": 2, "n_layer": 2, "n_head": 2, "n_emb": 16, **changes}
    return DPTransformer(2, **options).eval()


def spread(net, scale=0.3):
    """Weights far from their small start, so that every path through the network shows in its outputs."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * scale)
    return net


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("inputs", "cond", "horizon", "n_obs", "width", "parameters"), COUNTS)
def test_parameter_counts_of_the_published_networks(inputs, cond, horizon, n_obs, width, parameters):
    with torch.device("meta"):
        assert count(DPTransformer(inputs, cond, horizon, n_obs, 8, 4, width)) == parameters


def test_parameter_counts_of_the_variants():
    with torch.device("meta"):
        assert count(DPTransformer(22, 0, 16, 1, 8, 4, 256, time_as_cond=False)) == 6_334_486
    assert count(tiny()) == 11_298
    assert count(tiny(n_cond_layers=1)) == 12_450


def test_masks():
    # Spec 3.2: with 8 steps and 2 observations only (step 0, slot 2) is blocked.
    assert (~condition_mask(8, 2)).nonzero().tolist() == [[0, 2]]
    assert condition_mask(2, 3).tolist() == [[True, True, False, False], [True, True, True, False]]
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]


@pytest.mark.parametrize("cached", [False, True])
def test_causality(cached):
    net = spread(tiny())
    times = torch.tensor([90, 5])

    def run(x, cond, step=0):
        with torch.no_grad():
            return net.forward_cached(x, step, net.prepare(cond, times)) if cached else net(x, times[step], cond)

    x, cond = torch.randn(1, 8, 2), torch.randn(1, 2, 4)
    base = run(x, cond)
    for j in range(8):
        other = x.clone()
        other[:, j] += 1
        changed = (run(other, cond) != base).any(dim=-1)[0]
        assert not changed[:j].any()
        assert changed[j:].all()
    for i in range(2):
        other = cond.clone()
        other[:, i] += 1
        changed = (run(x, other) != base).any(dim=-1)[0]
        assert not changed[:i].any()
        assert changed[i:].all()
    assert (run(x, cond, 1) != base).any(dim=-1).all()


def test_without_causal_masks_everything_sees_everything():
    net, x, cond = spread(tiny(causal_attn=False)), torch.randn(1, 8, 2), torch.randn(1, 2, 4)
    base = net(x, 3, cond)
    x[:, 7] += 1
    assert (net(x, 3, cond) != base).any(dim=-1).all()


def test_encoder_only_variant_sees_the_time_and_the_past():
    net, x = spread(tiny(cond_dim=0, time_as_cond=False)), torch.randn(1, 8, 2)
    base = net(x, 3)
    assert base.shape == x.shape
    assert (net(x, 4) != base).any(dim=-1).all()
    x[:, 4] += 1
    changed = (net(x, 3) != base).any(dim=-1)[0]
    assert changed.tolist() == [False] * 4 + [True] * 4


def test_initial_weights():
    net = DPTransformer(2, 66, 16, 2, 2, 4, 128)
    for name, p in net.named_parameters():
        if "norm" in name:
            assert (p == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias"):
            assert (p == 0).all(), name
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.2), name


def test_weight_decay_only_for_linear_and_attention_weights():
    net = tiny(n_cond_layers=1)
    decay, rest = net.optim_groups(1e-3)
    assert (decay["weight_decay"], rest["weight_decay"]) == (1e-3, 0.0)
    linear = {id(m.weight) for m in net.modules() if isinstance(m, nn.Linear)}
    assert {id(p) for p in decay["params"]} == linear
    assert {id(p) for p in rest["params"]} == {id(p) for p in net.parameters()} - linear
    assert len(decay["params"]) + len(rest["params"]) == len(list(net.parameters()))


def test_decoder_layer_equals_torchs():
    torch.manual_seed(0)
    theirs = nn.TransformerDecoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    ours = DecoderLayer(16, 2, 0.0).eval()
    pairs = {"self_attention": theirs.self_attn, "cross_attention": theirs.multihead_attn}
    with torch.no_grad():
        for name, source in pairs.items():
            target = getattr(ours, name)
            target.query.weight.copy_(source.in_proj_weight[:16])
            target.query.bias.copy_(source.in_proj_bias[:16].normal_())
            target.key_value.weight.copy_(source.in_proj_weight[16:])
            target.key_value.bias.copy_(source.in_proj_bias[16:])
            target.out.load_state_dict(source.out_proj.state_dict())
        ours.mlp.up.load_state_dict(theirs.linear1.state_dict())
        ours.mlp.down.load_state_dict(theirs.linear2.state_dict())
        x, memory = torch.randn(3, 8, 16), torch.randn(3, 3, 16)
        want = theirs(x, memory, tgt_mask=~causal_mask(8), memory_mask=~condition_mask(8, 2))
        torch.testing.assert_close(ours(x, memory, causal_mask(8), condition_mask(8, 2)), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", [{}, {"causal_attn": False}, {"n_cond_layers": 1}, {"cond_dim": 0}])
@pytest.mark.parametrize(("n", "horizon"), [(1, 8), (5, 8), (3, 5)])
def test_cached_steps_equal_the_plain_network(variant, n, horizon):
    net, times = spread(tiny(**variant), 0.1), torch.arange(90, -1, -10)
    x = torch.randn(n, horizon, 2)
    cond = torch.randn(n, 2, 4) if net.cond_dim else None
    with torch.no_grad():
        cache = net.prepare(cond, times)
        for step in (0, 4, 9):
            got = net.forward_cached(x, step, cache)
            torch.testing.assert_close(got, net(x, times[step], cond), atol=1e-5, rtol=0)
        net.inference_dtype = torch.bfloat16
        low = net.forward_cached(x, 4, net.prepare(cond, times))
        want = net(x, times[4], cond)
        assert 0 < (low - want).abs().max() < 0.1 * want.std()


def test_cached_encoder_only_variant():
    net, times, x = spread(tiny(cond_dim=0, time_as_cond=False)), torch.tensor([7.0, 2.0]), torch.randn(2, 8, 2)
    with torch.no_grad():
        assert torch.equal(net.forward_cached(x, 1, net.prepare(None, times)), net(x, 2.0))


def test_packed_weights_follow_the_weights():
    net, times, x, cond = tiny(), torch.tensor([9]), torch.randn(1, 8, 2), torch.randn(1, 2, 4)
    with torch.no_grad():
        before = net.forward_cached(x, 0, net.prepare(cond, times))
        spread(net)
        after = net.forward_cached(x, 0, net.prepare(cond, times))
        twin = copy.deepcopy(net)
        torch.testing.assert_close(after, net(x, 9, cond), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(twin(x, 9, cond), net(x, 9, cond))
    assert (after - before).abs().max() > 1e-2


def test_dropout_acts_in_training_only():
    net, x, cond = spread(tiny(p_drop_attn=0.5)), torch.randn(1, 8, 2), torch.randn(1, 2, 4)
    assert torch.equal(net(x, 1, cond), net(x, 1, cond))
    net.train()
    assert not torch.equal(net(x, 1, cond), net(x, 1, cond))


@pytest.mark.parametrize(
    ("x", "cond", "what"),
    [
        ((1, 9, 2), (1, 2, 4), r"built for 1\.\.8 steps, got 9"),
        ((1, 8, 3), (1, 2, 4), r"expected \(N, H, 2\), got \(1, 8, 3\)"),
        ((1, 8, 2), (1, 3, 4), r"expected \(1, 2, 4\), got \(1, 3, 4\)"),
        ((1, 8, 2), None, r"expected \(1, 2, 4\), got None"),
    ],
)
def test_wrong_shapes_are_named(x, cond, what):
    with pytest.raises(ConfigError, match=what):
        tiny()(torch.randn(x), 0, None if cond is None else torch.randn(cond))


def test_bad_configurations_are_refused():
    with pytest.raises(ConfigError, match="does not divide n_emb=16"):
        tiny(n_head=3)
    with pytest.raises(ConfigError, match="even number"):
        tiny(n_emb=15)
    with pytest.raises(ConfigError, match="set cond_dim=0"):
        tiny(time_as_cond=False)
