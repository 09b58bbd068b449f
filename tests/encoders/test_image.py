"""Image encoders: parameter counts, normalisation layers, crops, sizes, pretrained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robopolicy.core.errors import ConfigError
from robopolicy.encoders.config import ImageEncoderConfig
from robopolicy.encoders.crop import center_crop, crop_at
from robopolicy.encoders.image import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder
from robopolicy.encoders.norms import freeze_batchnorm, group_norm, replace_batchnorm
from robopolicy.encoders.spatial_softmax import SpatialSoftmax

TINY = ImageEncoderConfig(backbone="tiny_cnn", channels=(16, 16), feature_dim=8, crop=None)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", [(84, 84), (96, 96), (240, 320)])
def test_default_camera_has_the_published_parameter_count(size):
    with torch.device("meta"):
        encoder = ImageEncoder(ImageEncoderConfig(), size)
    assert count(encoder) == 11_197_088
    assert count(encoder.trunk) == 11_176_512


@pytest.mark.parametrize(
    ("crop", "maps"),
    [((76, 76), 9), ((84, 84), 9), ((96, 96), 9), ((216, 216), 49), ((224, 224), 49), ((216, 288), 63)],
)
def test_feature_map_sizes(crop, maps):
    with torch.device("meta"):
        encoder = ImageEncoder(ImageEncoderConfig(crop=crop), (240, 320))
    assert encoder.pool.coordinates.shape == (maps, 2)


def test_no_batchnorm_is_left_and_groups_are_of_sixteen_channels():
    from torchvision.models import resnet18

    with torch.device("meta"):
        net = resnet18()
    assert replace_batchnorm(net) == 20
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    groups = {m.num_channels: m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {64: 4, 128: 8, 256: 16, 512: 32}


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (16, 1), (40, 2), (24, 1), (49, 1), (60, 3)])
def test_group_norm_always_divides_the_channels(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_frozen_batchnorm_is_batchnorm_in_evaluation_mode_and_has_no_parameters():
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(4)
    for tensor in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
        tensor.copy_(torch.rand(4) + 0.5)
    x = torch.randn(2, 4, 3, 3)
    want = bn.eval()(x)
    net = nn.Sequential(bn)
    assert freeze_batchnorm(net) == 1
    torch.testing.assert_close(net.train()(x), want)
    assert count(net) == 0
    assert set(net.state_dict()) == {"0.weight", "0.bias", "0.running_mean", "0.running_var"}


def test_random_crops_use_every_offset_and_nothing_else():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    where = torch.tensor([[0.0, 0.0], [0.0, 0.99999], [0.5, 0.49], [1 - 2**-24, 1 - 2**-24]])
    crops = crop_at(image.expand(4, 1, 3, 3), (2, 2), where)
    assert crops[:, 0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]
    offsets = crop_at(torch.arange(84.0).reshape(1, 1, 84, 1).expand(9, 1, 84, 1), (76, 1), _centres(9))[:, 0, 0, 0]
    assert offsets.tolist() == list(range(9))


def _centres(n: int) -> torch.Tensor:
    return torch.stack([(torch.arange(n) + 0.5) / n, torch.zeros(n)], dim=1)


def test_crops_of_the_whole_image_are_the_image():
    image = torch.rand(2, 3, 5, 7)
    assert torch.equal(crop_at(image, (5, 7), torch.rand(2, 2)), image)
    assert torch.equal(center_crop(image, (5, 7)), image)


@pytest.mark.parametrize("size", [(84, 84), (85, 90), (31, 46)])
def test_centre_crop_is_torchvisions(size):
    from torchvision.transforms.functional import center_crop as reference

    image = torch.rand(2, 3, *size)
    assert torch.equal(
        center_crop(image, (28, 45 if size[1] > 45 else 30)), reference(image, [28, 45 if size[1] > 45 else 30])
    )


def test_evaluation_crop_is_applied_also_without_random_crops():
    encoder = ImageEncoder(ImageEncoderConfig(backbone="tiny_cnn", channels=(16,), crop=(20, 24)), (32, 32))
    assert encoder.prepare(torch.rand(2, 3, 32, 32)).shape == (2, 3, 20, 24)


def test_uint8_and_float_images_are_the_same_image():
    encoder = ImageEncoder(TINY, (16, 16))
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(encoder(pixels), encoder(pixels.float() / 255), atol=1e-5, rtol=1e-5)


def test_images_are_normalised_exactly_once():
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    unit = ImageEncoder(TINY, (16, 16)).prepare(white)
    assert (float(unit.min()), float(unit.max())) == (1.0, 1.0)
    config = ImageEncoderConfig(backbone="tiny_cnn", channels=(16,), crop=None, normalize="imagenet")
    imagenet = ImageEncoder(config, (16, 16)).prepare(white)
    want = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(imagenet[0, :, 0, 0], want)


def test_resize_comes_before_the_crop():
    config = ImageEncoderConfig(backbone="tiny_cnn", channels=(16,), resize=(40, 30), crop=0.5)
    encoder = ImageEncoder(config, (96, 128))
    assert encoder.prepare(torch.rand(1, 3, 96, 128)).shape == (1, 3, 20, 15)


def test_spatial_softmax_finds_a_bright_spot():
    layer = SpatialSoftmax(1, 1, (5, 9))
    nn.init.constant_(layer.to_maps.weight, 1.0)
    nn.init.constant_(layer.to_maps.bias, 0.0)
    image = torch.zeros(1, 1, 5, 9)
    image[0, 0, 1, 6] = 100.0
    torch.testing.assert_close(layer(image), torch.tensor([[0.5, -0.5]]))


def test_frozen_trunk_stays_in_evaluation_mode_and_out_of_the_gradient():
    config = ImageEncoderConfig(backbone="tiny_cnn", channels=(16,), crop=None, frozen=True)
    encoder = ImageEncoder(config, (16, 16)).train()
    assert not encoder.trunk.training
    assert encoder.project.training
    assert [n for n, p in encoder.named_parameters() if p.requires_grad and n.startswith("trunk")] == []


def test_pretrained_weights_come_from_a_local_file(tmp_path: Path):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    reference = resnet18()
    reference.bn1.running_mean.uniform_(-1, 1)
    file = tmp_path / "resnet18.safetensors"
    save_file(reference.state_dict(), file)
    config = ImageEncoderConfig(weights=str(file), norm="frozen_batch", pool="average", feature_dim=4, crop=None)
    encoder = ImageEncoder(config, (32, 32), load_weights=True)
    x = torch.rand(1, 3, 32, 32)
    reference.fc = nn.Identity()
    torch.testing.assert_close(encoder.pool(encoder.trunk(x)), reference.eval()(x), atol=1e-5, rtol=1e-5)


def test_timm_backbones_have_feature_maps():
    config = ImageEncoderConfig(backbone="timm:resnet10t", pool="average", feature_dim=4, crop=None)
    encoder = ImageEncoder(config, (64, 64))
    assert encoder(torch.rand(1, 3, 64, 64)).shape == (1, 4)
    assert not [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]


BAD_CONFIGS = [
    ({"weights": "default"}, "frozen_batch"),
    ({"weights": "default", "norm": "frozen_batch", "backbone": "tiny_cnn"}, "tiny_cnn"),
    ({"crop": 1.5}, "fraction"),
    ({"crop": (0, 4)}, "at least 1 pixel"),
    ({"channels": ()}, "channels"),
    ({"lr_scale": 0.0}, "lr_scale"),
    ({"backbone_name": "resnet18"}, "backbone"),
    ({"pool": "max"}, "pool"),
]


@pytest.mark.parametrize(("values", "words"), BAD_CONFIGS)
def test_contradicting_options_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        ImageEncoderConfig(**values)


BAD_BUILDS = [
    ({"backbone": "resnet81"}, "did you mean"),
    ({"backbone": "nowhere:resnet18"}, "unknown image backbone"),
    ({"backbone": "timm:not_a_model"}, "not_a_model"),
    ({"crop": (40, 10)}, "does not fit"),
    ({"backbone": "torchvision:vit_b_16"}, "no spatial feature maps"),
    ({"weights": "resnet.pth", "norm": "frozen_batch"}, "safetensors"),
    ({"weights": "missing.safetensors", "norm": "frozen_batch"}, "no such weights file"),
]


@pytest.mark.parametrize(("values", "words"), BAD_BUILDS)
def test_impossible_encoders_are_refused_by_name(values, words):
    with torch.device("meta"), pytest.raises(ConfigError, match=words):
        ImageEncoder(ImageEncoderConfig(**values), (32, 32), load_weights=True)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    file = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file)
    config = ImageEncoderConfig(weights=str(file), norm="frozen_batch")
    with pytest.raises(ConfigError, match="missing or misshapen"):
        ImageEncoder(config, (32, 32), load_weights=True)
