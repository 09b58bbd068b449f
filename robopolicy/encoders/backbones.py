"""Image trunks by name: pixels ``(N, 3, H, W)`` to feature maps ``(N, C, h, w)``.

``resnet18`` from scratch with GroupNorm is Diffusion Policy's (section 3.3); ``tiny_cnn`` is for CPUs and tests;
``torchvision:<name>`` and ``timm:<name>`` give access to pretrained networks.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.encoders.config import ImageEncoderConfig
from robopolicy.encoders.norms import freeze_batchnorm, group_norm, replace_batchnorm


def build_trunk(config: ImageEncoderConfig, load_weights: bool) -> nn.Module:
    """The trunk a configuration names; pretrained weights are read only when ``load_weights``.

    Raises ``ConfigError`` for unknown names and for weights that are missing or of another network.
    """
    name = config.backbone
    if name == "tiny_cnn":
        return tiny_cnn(config.channels)
    family, _, model = name.partition(":") if ":" in name else ("torchvision", "", name)
    weights = config.weights if load_weights else None
    if weights not in (None, "default"):
        _check_file(Path(str(weights)))
    if family == "torchvision":
        trunk = _torchvision_trunk(model, weights)
    elif family == "timm":
        trunk = _timm_trunk(model, weights)
    else:
        raise ConfigError(f"unknown image backbone '{name}'; use resnet18, tiny_cnn, torchvision:<name> or timm:<name>")
    if config.norm == "group":
        replace_batchnorm(trunk)
    else:
        freeze_batchnorm(trunk)
    return trunk


def tiny_cnn(channels: tuple[int, ...]) -> nn.Module:
    """Stride-2 convolutions with GroupNorm and ReLU; ``(N, channels[-1], H / 2^n, W / 2^n)``, rounded up."""
    blocks: list[nn.Module] = []
    for inputs, outputs in zip((3, *channels[:-1]), channels, strict=True):
        blocks += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), group_norm(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*blocks)


def _torchvision_trunk(name: str, weights: str | None) -> nn.Module:
    from torchvision import models

    if name not in models.list_models():
        raise ConfigError(f"torchvision has no model '{name}'" + did_you_mean(name, models.list_models()))
    try:
        net = models.get_model(name, weights="DEFAULT" if weights == "default" else None)
    except OSError as e:
        raise ConfigError(f"cannot download weights of {name} ({e}); give a local .safetensors file instead") from e
    if hasattr(net, "layer4"):
        kept = [(n, m) for n, m in net.named_children() if n not in ("avgpool", "fc")]
        trunk: nn.Module = nn.Sequential(OrderedDict(kept))
    elif hasattr(net, "features"):
        trunk = nn.Sequential(OrderedDict(features=net.features))
    else:
        raise ConfigError(f"torchvision:{name} has no spatial feature maps; use timm:<name> for transformers")
    if weights not in (None, "default"):
        load_trunk_file(trunk, Path(str(weights)), drop=("fc.", "classifier."))
    return trunk


def _timm_trunk(name: str, weights: str | None) -> nn.Module:
    try:
        import timm
    except ImportError as e:
        raise ConfigError("timm is not installed; pip install 'robopolicy[timm]'") from e
    options: dict[str, Any] = {}
    if weights not in (None, "default"):
        options["pretrained_cfg_overlay"] = {"file": str(weights)}
    try:
        net = timm.create_model(name, pretrained=weights is not None, features_only=True, out_indices=(-1,), **options)
    except (RuntimeError, OSError, AttributeError) as e:
        reason = str(e).splitlines()[0]
        raise ConfigError(f"timm:{name} cannot be built with weights={weights!r}: {reason}") from e
    return LastMap(net)


class LastMap(nn.Module):
    """The deepest map of a network that returns a list of them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.net(images)[-1]
        return maps


def _check_file(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: expected a .safetensors file (pickled weights can run code, so they are not read)")
    if not path.is_file():
        raise ConfigError(f"{path}: no such weights file")


def load_trunk_file(trunk: nn.Module, path: Path, drop: tuple[str, ...], prefix: str = "") -> None:
    """Fill ``trunk`` from a ``.safetensors`` file whose names may begin with ``prefix``; names in ``drop`` are left.

    Raises ``ConfigError`` for other files, and for tensors that are missing or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_file(path)
    try:
        named = {k.removeprefix(prefix): v for k, v in load_file(path).items()}
        state: dict[str, Tensor] = {k: v for k, v in named.items() if not k.startswith(drop)}
    except SafetensorError as e:
        raise ConfigError(f"{path}: not a readable safetensors file ({e})") from e
    own = {k: v for k, v in trunk.state_dict().items() if not k.endswith("num_batches_tracked")}
    wrong = sorted(k for k, v in own.items() if k not in state or state[k].shape != v.shape)
    if wrong:
        raise ConfigError(
            f"{path}: missing or misshapen {', '.join(wrong[:3])} ({len(wrong)} in all); another network?"
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(state[key].to(value.dtype))
