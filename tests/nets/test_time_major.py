import pytest
import torch
from torch.nn import functional as F

from robopolicy.nets.ops import ChannelsFirstOps
from robopolicy.nets.temporal import TapConv, TapUpsample
from robopolicy.nets.time_major import NormMish, TapProduct, TimeMajorOps
from robopolicy.nets.unet1d import ConditionalUnet1d


def both(net, x, cond, t):
    """Outputs and gradients of the same network by both ways of computing it."""
    answers = []
    for ops in (ChannelsFirstOps(), TimeMajorOps()):
        vector = F.mish(torch.cat((net.step_embedding(t), cond), dim=-1))
        films = [b.modulation(b.film(vector)) for b in net.residual_blocks()]
        out = net.traverse(ops, x, films)
        wanted = [x, cond, *net.parameters()]
        answers.append((out, torch.autograd.grad((out * torch.sin(out + 1)).sum(), wanted)))
    return answers


@pytest.mark.parametrize("horizon", [4, 8, 16])
@pytest.mark.parametrize("scale", [True, False])
def test_same_values_and_gradients_as_torch_convolutions(horizon, scale):
    torch.manual_seed(horizon)
    net = ConditionalUnet1d(3, 5, (16, 32, 64), n_groups=4, step_embed_dim=16, cond_predict_scale=scale).double()
    x = torch.randn(6, horizon, 3, dtype=torch.float64, requires_grad=True)
    cond = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    (a, grads_a), (b, grads_b) = both(net, x, cond, torch.arange(6))
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)
    for left, right in zip(grads_a, grads_b, strict=True):
        torch.testing.assert_close(left, right, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_tap_product_is_a_convolution_at_every_length(length):
    x = torch.randn(length, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    want = F.conv1d(x.permute(1, 2, 0), weight.permute(2, 1, 0), bias, padding=2).permute(2, 0, 1)
    torch.testing.assert_close(TapProduct.apply(x, weight, bias), want)
    assert torch.autograd.gradcheck(TapProduct.apply, (x, weight, bias))


def test_norm_mish_gradients_by_finite_differences():
    torch.manual_seed(0)
    u = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    vectors = [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    films = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda *a: NormMish.apply(a[0], a[1], a[2], 2, 1e-5, a[3], a[4]), (u, *vectors, *films)
    )
    assert torch.autograd.gradcheck(lambda *a: NormMish.apply(a[0], a[1], a[2], 2, 1e-5, None, None), (u, *vectors))


def test_mish_survives_where_the_exponential_overflows():
    u = torch.tensor([[[-300.0, 300.0]], [[300.0, -300.0]]], requires_grad=True)
    gamma = torch.full((2,), 200.0, requires_grad=True)
    out = NormMish.apply(u, gamma, torch.zeros(2), 1, 1e-5, None, None)
    want = F.mish(F.group_norm(u.permute(1, 2, 0), 1, gamma)).permute(2, 0, 1)
    torch.testing.assert_close(out, want)
    out.sum().backward()
    assert torch.isfinite(u.grad).all()
    assert torch.isfinite(gamma.grad).all()


def test_resampling_matches_torch():
    ops, first = TimeMajorOps(), ChannelsFirstOps()
    x = torch.randn(8, 2, 6, dtype=torch.float64)
    for module, apply in ((TapConv(6, 6, 3, stride=2), "conv"), (TapUpsample(6), "upsample")):
        module = module.double()
        want = getattr(first, apply)(module, x.permute(1, 2, 0)).permute(2, 0, 1)
        torch.testing.assert_close(getattr(ops, apply)(module, x), want)


def test_autocast_trains_in_bfloat16():
    torch.manual_seed(0)
    net = ConditionalUnet1d(3, 5, (16, 32), step_embed_dim=16)
    x, cond, t = torch.randn(12, 8, 3), torch.randn(12, 5), torch.arange(12)
    want = net(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(x, t, cond)
    got.float().square().mean().backward()
    # bfloat16 keeps 8 bits; two dozen layers deep this is a few per cent of the output's spread.
    assert 0 < (got.float() - want).abs().max() < 0.06 * want.std()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in net.parameters())


def test_second_derivatives_are_right_or_refused():
    torch.manual_seed(0)
    net = ConditionalUnet1d(3, 0, (16, 32), step_embed_dim=16).double()
    x = torch.randn(9, 4, 3, dtype=torch.float64, requires_grad=True)

    def gradient_norm():
        (grad,) = torch.autograd.grad(net(x, 3).sum(), x, create_graph=True)
        return grad.square().sum()

    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient_norm().backward()
    net.double_backward = True
    (got,) = torch.autograd.grad(gradient_norm(), x)
    direction, step = torch.randn_like(x), 1e-5
    values = []
    for sign in (1, -1):
        moved = (x.detach() + sign * step * direction).requires_grad_()
        (grad,) = torch.autograd.grad(net(moved, 3).sum(), moved)
        values.append(grad.square().sum())
    slope = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close((got * direction).sum(), slope, rtol=1e-5, atol=1e-7)
