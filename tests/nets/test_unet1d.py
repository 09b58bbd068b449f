import copy

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.nets.unet1d import ConditionalUnet1d

L, XL = (256, 512, 1024), (512, 1024, 2048)

# (input dim, condition dim, step embedding, widths, parameters): spec 3.1, computed with the published class.
COUNTS = [
    (2, 40, 256, L, 65_783_298),
    (10, 38, 256, L, 65_768_970),
    (10, 46, 256, L, 65_883_658),
    (10, 106, 256, L, 66_743_818),
    (20, 118, 256, L, 66_933_780),
    (9, 120, 256, L, 66_942_729),
    (2, 48, 256, L, 65_897_986),
    (22, 0, 256, L, 65_245_718),
    (2, 40, 256, XL, 252_937_986),
    (10, 46, 256, XL, 253_138_698),
    (9, 120, 256, XL, 255_256_841),
    (2, 48, 256, XL, 253_167_362),
    (20, 118, 256, XL, 255_238_932),
    (2, 132, 128, XL, 251_511_938),
    (10, 274, 128, XL, 255_612_042),
    (20, 548, 128, XL, 263_504_020),
    (7, 274, 128, XL, 255_601_287),
    (2, 1028, 128, XL, 277_202_050),
    (2, 132, 128, L, 64_873_346),
    (10, 274, 128, L, 66_923_402),
    (20, 548, 128, L, 70_869_396),
]


def count(net):
    return sum(p.numel() for p in net.parameters())


def tiny(**changes):
    torch.manual_seed(0)
    options = {"down_dims": (16, 32, 64), "kernel_size": 3, "step_embed_dim": 16, **changes}
    return ConditionalUnet1d(2, 4, **options).eval()


@pytest.mark.parametrize(("inputs", "cond", "embed", "dims", "parameters"), COUNTS)
def test_parameter_counts_of_the_published_networks(inputs, cond, embed, dims, parameters):
    with torch.device("meta"):
        assert count(ConditionalUnet1d(inputs, cond, dims, step_embed_dim=embed)) == parameters


def test_parameter_counts_of_the_unit_test_sizes():
    assert count(tiny(down_dims=(16, 32))) == 46_466
    assert count(tiny()) == 173_602
    assert count(tiny(cond_predict_scale=False)) == 164_194


@pytest.mark.parametrize("horizon", [4, 8, 16, 32])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_output_has_the_shape_of_the_input(horizon, n):
    x = torch.randn(n, horizon, 2)
    assert tiny()(x, 3, torch.randn(n, 4)).shape == x.shape
    assert tiny(output_dim=5)(x, 3, torch.randn(n, 4)).shape == (n, horizon, 5)


@pytest.mark.parametrize("horizon", [2, 6, 10])
def test_a_horizon_that_cannot_be_halved_is_refused_with_a_mend(horizon):
    net = tiny()
    with pytest.raises(ConfigError, match=rf"multiple of 4 .* got {horizon}; use (4|8)"):
        net(torch.randn(1, horizon, 2), 0, torch.randn(1, 4))
    with pytest.raises(ConfigError, match="multiple of 4"):
        net.check_horizon(horizon)


@pytest.mark.parametrize(
    ("x", "cond", "what"),
    [
        ((1, 8, 3), (1, 4), r"expected \(N, H, 2\), got \(1, 8, 3\)"),
        ((8, 2), (1, 4), r"expected \(N, H, 2\)"),
        ((2, 8, 2), (2, 5), r"expected \(2, 4\), got \(2, 5\)"),
        ((2, 8, 2), (1, 4), r"expected \(2, 4\), got \(1, 4\)"),
        ((2, 8, 2), None, r"expected \(2, 4\), got None"),
    ],
)
def test_wrong_shapes_are_named(x, cond, what):
    with pytest.raises(ConfigError, match=what):
        tiny()(torch.randn(x), 0, None if cond is None else torch.randn(cond))


def test_bad_widths_and_kernels_are_refused():
    with pytest.raises(ConfigError, match="does not divide 20"):
        tiny(down_dims=(20, 40))
    with pytest.raises(ConfigError, match="odd number, got 4"):
        tiny(kernel_size=4)
    with pytest.raises(ConfigError, match="at least one width"):
        tiny(down_dims=())


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_without_film_the_observation_and_the_time_do_not_matter(scale, grad):
    net = tiny(cond_predict_scale=scale)
    x, a, b = torch.randn(3, 8, 2), torch.randn(3, 4), torch.randn(3, 4)
    with torch.set_grad_enabled(grad):
        assert not torch.allclose(net(x, 1, a), net(x, 1, b))
        assert not torch.allclose(net(x, 1, a), net(x, 50, a))
        for block in net.residual_blocks():
            torch.nn.init.zeros_(block.film.weight)
        assert torch.equal(net(x, 1, a), net(x, 50, b))


def test_rows_do_not_see_each_other():
    net, x, cond = tiny(), torch.randn(9, 8, 2), torch.randn(9, 4)
    alone = torch.cat([net(x[i : i + 1], 7, cond[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(net(x, torch.full((9,), 7), cond), alone, atol=2e-6, rtol=1e-5)


def test_unconditional_network():
    net = ConditionalUnet1d(6, 0, (16, 32), kernel_size=3, step_embed_dim=16).eval()
    x = torch.randn(2, 8, 6)
    assert net(x, 3).shape == x.shape
    with pytest.raises(ConfigError, match="expected None"):
        net(x, 3, torch.randn(2, 4))


def test_optimiser_group_holds_every_parameter_once():
    net = tiny()
    (group,) = net.optim_groups(1e-6)
    assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters()}
    assert group["weight_decay"] == 1e-6


def test_initial_weights_are_distributed_as_torch_convolutions():
    net = ConditionalUnet1d(2, 4, (64, 128), step_embed_dim=16)
    conv, up = net.mid[0].first.conv, net.up[0].resample
    for weight, bound in ((conv.weight, (128 * 5) ** -0.5), (up.weight, (64 * 4) ** -0.5)):
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_copies_do_not_share_packed_weights():
    net, x, cond = tiny(), torch.randn(2, 8, 2), torch.randn(2, 4)
    with torch.no_grad():
        before = net(x, 1, cond)
        twin = copy.deepcopy(net)
        for p in twin.parameters():
            p.zero_()
        assert torch.equal(net(x, 1, cond), before)
        assert twin(x, 1, cond).abs().max() == 0
