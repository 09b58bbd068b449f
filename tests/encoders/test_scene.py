"""Scene tokens: counts of the paper, places that match their pixels, frozen trunks, one pyramid level."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import CAMERA_POSE, DEPTH, IMAGES
from robopolicy.encoders.clip_resnet import ClipResNet50
from robopolicy.encoders.config import SceneConfig
from robopolicy.encoders.crop import rescale_indices
from robopolicy.encoders.scene import STAGES, Pyramid, SceneEncoder, stage_maps
from robopolicy.testing.tiny import random_poses, tiny_spec

TINY = SceneConfig(backbone="tiny", channels=(8, 16), stride=4)
SPEC = tiny_spec(2, {"front": (24, 32), "wrist": (16, 16)}, {"front": (24, 32), "wrist": (16, 16)}, moving=["wrist"])


def observation(batch: int = 2, steps: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    obs = {}
    for name, size in (("front", (24, 32)), ("wrist", (16, 16))):
        obs[IMAGES + name] = torch.rand((batch, steps, 3, *size), generator=rng)
        obs[DEPTH + name] = 0.4 + torch.rand((batch, steps, 1, *size), generator=rng)
    poses = random_poses(np.random.default_rng(seed), (batch, steps))
    return {**obs, CAMERA_POSE + "wrist": torch.from_numpy(poses)}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("dim", "pyramid"), [(120, 1_117_680), (192, 2_410_368)])
def test_parameters_of_the_paper(dim, pyramid):
    with torch.device("meta"):
        trunk = ClipResNet50()
        assert count(trunk) == 23_527_264
        attention_pool = 50 * 2048 + 3 * (2048**2 + 2048) + 2048 * 1024 + 1024
        assert count(trunk) + attention_pool == 38_316_896
        assert count(Pyramid(trunk, STAGES["clip_rn50"], dim, 8, True).fpn) == pyramid


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", "clip_rn50"])
def test_only_the_used_level_is_computed_and_it_is_torchvisions(name, stride):
    torch.manual_seed(0)
    trunk = ClipResNet50(16, (1, 1, 1, 1)) if name == "clip_rn50" else resnet18()
    trunk = trunk if name == "clip_rn50" else torch.nn.Sequential(OrderedDict(list(trunk.named_children())[:-2]))
    stages = tuple(w // 4 for w in STAGES[name]) if name == "clip_rn50" else STAGES[name]
    net = Pyramid(trunk, stages, 12, stride, frozen=True).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = stage_maps(trunk, images)
        assert [m.shape[1] for m in maps] == list(stages)
        assert [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]
        level = stride.bit_length() - 2
        whole = net.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps)))
        torch.testing.assert_close(net(images), whole[str(level)])
    trainable = {n for n, p in net.named_parameters() if p.requires_grad}
    net(images).sum().backward()
    assert {n for n, p in net.named_parameters() if p.grad is not None} == trainable


def test_tokens_are_paired_with_their_places():
    """Colour each pixel with its own place: a cell's place must be among the colours it was made from."""
    encoder = SceneEncoder(SPEC, TINY, 12)
    obs = observation()
    features = encoder(obs)
    assert features.tokens.shape == (2, 6 * 8 + 4 * 4, 12)
    assert features.tokens.shape[1] == encoder.num_tokens == features.positions.shape[1]
    newest = {k: v[:, -1] for k, v in obs.items()}
    for key, rows in ((DEPTH + "front", slice(0, 48)), (DEPTH + "wrist", slice(48, 64))):
        xyz = encoder.rig.xyz(key, newest)
        cells = xyz.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).flatten(2, 3)  # (B, 3, cells, 16)
        gap = (cells - features.positions[:, rows].transpose(1, 2)[..., None]).abs().amax(1)
        assert float(gap.amin(-1).max()) == 0.0


def test_rescaled_pixels_keep_their_own_places():
    """Oracle O19: colour each pixel with its own place; whatever the factor, the two still agree everywhere."""
    encoder = SceneEncoder(SPEC, TINY, 12)
    encoder.backbone = torch.nn.Identity()  # a token a pixel, its colour as the network sees it
    obs = observation(40)
    obs[DEPTH + "front"][:, -1, :, 5:9] = 0.0  # no return, no place
    newest = {k: v[:, -1] for k, v in obs.items()}
    for name in ("front", "wrist"):
        xyz = encoder.rig.xyz(DEPTH + name, newest).nan_to_num(-9.0)
        obs[IMAGES + name] = torch.stack([torch.zeros_like(xyz), 0.5 * xyz + 0.5], dim=1)  # normalised: xyz again
    draw = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    draw[:, 0] = 0.75 + 0.5 * draw[:, 0]
    plain, moved = encoder(obs), encoder(obs, draw)
    valid = moved.extras["valid"]
    torch.testing.assert_close(moved.tokens[valid], moved.positions[valid], atol=1e-6, rtol=0)
    assert bool((moved.tokens[~valid] == -9.0).all())
    changed = (moved.tokens != plain.tokens).any(-1).float().mean(1)
    assert float(changed[(draw[:, 0] - 1).abs() > 0.05].min()) > 0.5
    neutral = torch.tensor([[1.0, 0.7, 0.2]]).expand(40, 3)
    assert torch.equal(encoder(obs, neutral).tokens, plain.tokens)
    rows = encoder({k: v[3:5] for k, v in obs.items()}, draw[3:5])
    assert torch.equal(rows.tokens, moved.tokens[3:5])


def test_rescaling_crops_or_mirrors_back_to_size():
    grid = rescale_indices((4, 8), torch.tensor([[0.75, 0.9, 0.9], [1.5, 0.0, 0.999], [1.25, 0.5, 0.4]]))
    rows, columns = grid.reshape(3, 4, 8)[:, :, 0] // 8, grid.reshape(3, 4, 8)[:, 0] % 8
    assert rows[0].tolist() == [0, 2, 3, 2]  # three rows of the smaller picture, then the mirror
    assert columns[0].tolist() == [0, 2, 3, 4, 6, 7, 6, 4]
    assert rows[1].tolist() == [0, 1, 1, 2]  # six rows, seen from the top
    assert columns[1].tolist() == [3, 3, 4, 5, 5, 6, 7, 7]  # twelve columns, seen from the last place
    assert columns[2].tolist() == [1, 2, 2, 3, 4, 5, 6, 6]  # ten columns: three places, this is the middle one


def test_only_the_newest_step_is_read():
    encoder = SceneEncoder(SPEC, TINY, 12).eval()
    obs = observation()
    older = {k: torch.cat([v[:, 1:], v[:, 1:]], dim=1) for k, v in obs.items()}
    assert torch.equal(encoder(obs).tokens, encoder(older).tokens)
    assert torch.equal(encoder(obs).positions, encoder(older).positions)


def test_rows_do_not_influence_one_another():
    encoder = SceneEncoder(SPEC, TINY, 12)
    obs = observation(3)
    together, alone = encoder(obs), encoder({k: v[:1] for k, v in obs.items()})
    torch.testing.assert_close(together.tokens[:1], alone.tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.positions[:1], alone.positions)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "median"])
def test_pixels_without_return_make_tokens_invalid_not_nan(mode):
    encoder = SceneEncoder(SPEC, SceneConfig(backbone="tiny", channels=(8, 16), stride=4, xyz_resize=mode), 12)
    obs = observation()
    obs[DEPTH + "front"][:, -1, :, :12] = 0.0
    features = encoder(obs)
    assert bool(features.positions.isfinite().all())
    assert not bool(features.extras["valid"][:, :16].any())
    assert bool(features.extras["valid"][:, 32:].all())


def test_no_gradient_through_places_but_through_pictures():
    encoder = SceneEncoder(SPEC, TINY, 12)
    obs = {k: v.requires_grad_() for k, v in observation().items()}
    features = encoder(obs)
    assert not features.positions.requires_grad
    features.tokens.square().sum().backward()
    assert float(obs[IMAGES + "front"].grad.abs().max()) > 0
    assert obs[DEPTH + "front"].grad is None


def clip(frozen: bool = True, weights: str | None = None, load: bool = False) -> SceneEncoder:
    spec = tiny_spec(0, {"front": (32, 32)}, {"front": (32, 32)})
    return SceneEncoder(spec, SceneConfig(weights=weights, frozen=frozen), 12, load)


def test_the_frozen_trunk_neither_learns_nor_moves():
    torch.manual_seed(0)
    encoder = clip()
    obs = {IMAGES + "front": torch.rand(2, 1, 3, 32, 32), DEPTH + "front": torch.ones(2, 1, 1, 32, 32)}
    quiet = encoder.eval()(obs).tokens
    loud = encoder.train()(obs).tokens
    assert torch.equal(quiet, loud)
    assert not encoder.backbone.trunk.training
    loud.sum().backward()
    assert all(p.grad is None for p in encoder.backbone.trunk.parameters())
    assert not any(p.requires_grad for p in encoder.backbone.trunk.parameters())
    assert float(encoder.backbone.fpn.layer_blocks[2][0].weight.grad.abs().max()) > 0


def test_released_clip_weights_load_from_a_local_file_only(tmp_path):
    torch.manual_seed(0)
    source = ClipResNet50()
    state = {"visual." + k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    state |= {"visual.attnpool.positional_embedding": torch.zeros(50, 8)}
    save_file(state, tmp_path / "clip.safetensors")
    encoder = clip(weights=str(tmp_path / "clip.safetensors"), load=True)
    loaded = encoder.backbone.trunk.state_dict()
    assert all(torch.equal(loaded[k.removeprefix("visual.")], v) for k, v in state.items() if "attnpool" not in k)
    with pytest.raises(ConfigError, match=r"scene\.weights"):
        clip(load=True)
    with pytest.raises(ConfigError, match="no such weights file"):
        clip(weights=str(tmp_path / "other.safetensors"), load=True)
    del state["visual.layer3.2.conv2.weight"]
    save_file(state, tmp_path / "clip.safetensors")
    with pytest.raises(ConfigError, match=r"layer3\.2\.conv2\.weight"):
        clip(weights=str(tmp_path / "clip.safetensors"), load=True)


def test_a_trunk_from_scratch_has_no_batch_statistics():
    encoder = clip(frozen=False, load=True)
    assert not [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(p.requires_grad for p in encoder.backbone.trunk.parameters())


@pytest.mark.parametrize("backbone", ["resnet18", "clip_rn50"])
def test_token_grids_of_odd_pictures(backbone):
    spec = tiny_spec(0, {"front": (43, 51)}, {"front": (43, 51)})
    encoder = SceneEncoder(spec, SceneConfig(backbone=backbone, stride=8), 12)
    obs = {IMAGES + "front": torch.rand(1, 1, 3, 43, 51), DEPTH + "front": torch.ones(1, 1, 1, 43, 51)}
    assert encoder(obs).tokens.shape[1] == encoder.num_tokens


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (tiny_spec(2, {"front": (8, 8)}), "no depth camera"),
        (tiny_spec(2, None, {"front": (8, 8)}), r"no colour picture 'observation\.images\.front'"),
    ],
)
def test_cameras_that_do_not_make_a_scene_are_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        SceneEncoder(spec, TINY, 12)


@pytest.mark.parametrize("changes", [{"stride": 6}, {"backbone": "tiny", "stride": 4}, {"max_depth": 0.0}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ConfigError):
        SceneConfig(**changes)
