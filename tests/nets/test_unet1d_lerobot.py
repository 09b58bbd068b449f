"""The same weights in LeRobot's U-Net and in ours compute the same function, in every mode and with gradients."""

import importlib.util
import warnings
from types import SimpleNamespace

import pytest
import torch

from robopolicy.nets.unet1d import ConditionalUnet1d


@pytest.fixture(scope="module")
def weight_map(repo_root):
    path = repo_root / "benchmarks" / "lerobot_weights.py"
    spec = importlib.util.spec_from_file_location("lerobot_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peer_class():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modeling = pytest.importorskip("lerobot.policies.diffusion.modeling_diffusion")
    return modeling.DiffusionConditionalUnet1d


def pair(peer_class, weight_map, dims, scale=True):
    torch.manual_seed(0)
    config = SimpleNamespace(
        diffusion_step_embed_dim=32,
        action_feature=SimpleNamespace(shape=(7,)),
        down_dims=dims,
        kernel_size=5,
        n_groups=8,
        use_film_scale_modulation=scale,
    )
    theirs = peer_class(config, 20).eval()
    ours = ConditionalUnet1d(7, 20, dims, step_embed_dim=32, cond_predict_scale=scale).eval()
    ours.load_state_dict(weight_map.unet_state_dict(theirs.state_dict()), strict=True)
    return theirs, ours


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("dims", [(32, 64), (32, 64, 128)])
@pytest.mark.parametrize("n", [1, 5, 16])
def test_values_agree(peer_class, weight_map, dims, scale, n):
    theirs, ours = pair(peer_class, weight_map, dims, scale)
    times = torch.arange(99, -1, -11)
    x, cond = torch.randn(n, 16, 7), torch.randn(n, 20)
    t = times[torch.arange(n) % len(times)]
    want = theirs(x, t, cond)
    torch.testing.assert_close(ours(x, t, cond), want, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, cond), want, atol=1e-5, rtol=0)
        cache = ours.prepare(cond, times)
        for step in range(len(times)):
            want = theirs(x, times[step].expand(n), cond)
            torch.testing.assert_close(ours.forward_cached(x, step, cache), want, atol=1e-5, rtol=0)


def test_gradients_agree(peer_class, weight_map):
    theirs, ours = pair(peer_class, weight_map, (32, 64, 128))
    x, t, cond = torch.randn(16, 16, 7), torch.arange(16), torch.randn(16, 20)
    target = torch.randn(16, 16, 7)
    for net in (theirs, ours):
        (net(x, t, cond) - target).square().mean().backward()
    want = weight_map.unet_state_dict({k: p.grad for k, p in theirs.named_parameters()})
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, want[name], atol=1e-6, rtol=1e-3, msg=name)


def test_the_map_covers_every_tensor_once(peer_class, weight_map):
    theirs, ours = pair(peer_class, weight_map, (32, 64))
    names = [weight_map.unet_name(k) for k in theirs.state_dict()]
    assert len(set(names)) == len(names)
    assert set(names) == set(ours.state_dict())
