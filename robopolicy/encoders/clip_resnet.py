"""CLIP's ResNet-50, the convolutional part.

Source: Radford et al. 2021 (*CLIP*), section 2.4: three convolutions in the stem, average pooling instead of strided
convolutions.  Names of the parameters are those of the released files.  What differs: the attention pool behind it,
which feature maps do not need, is left out.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Bottleneck(nn.Module):
    """``(N, inputs, H, W)`` to ``(N, 4 * width, H / stride, W / stride)``."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shrink = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", nn.Conv2d(inputs, outputs, 1, bias=False)),
                        ("1", nn.BatchNorm2d(outputs)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self.shrink(y)))
        return torch.relu(y + self.downsample(x))


class ClipResNet50(nn.Sequential):
    """``(N, 3, H, W)`` to ``(N, 2048, H / 32, W / 32)``; 23.53 M parameters."""

    def __init__(self, width: int = 64, layers: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        half = width // 2
        parts: list[tuple[str, nn.Module]] = []
        for i, (inputs, outputs) in enumerate(((3, half), (half, half), (half, width)), 1):
            conv = nn.Conv2d(inputs, outputs, 3, stride=2 if i == 1 else 1, padding=1, bias=False)
            parts += [(f"conv{i}", conv), (f"bn{i}", nn.BatchNorm2d(outputs)), (f"relu{i}", nn.ReLU(inplace=True))]
        parts.append(("avgpool", nn.AvgPool2d(2)))
        inputs = width
        for i, count in enumerate(layers, 1):
            inner, blocks = width * 2 ** (i - 1), []
            for j in range(count):
                blocks.append(Bottleneck(inputs, inner, 2 if i > 1 and j == 0 else 1))
                inputs = 4 * inner
            parts.append((f"layer{i}", nn.Sequential(*blocks)))
        super().__init__(OrderedDict(parts))
