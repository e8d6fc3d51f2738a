"""DeepLabV3+: a residual encoder, atrous convolutions side by side at its end, and a decoder with one skip.

Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", 2018: output
stride 16, rates 6, 12 and 18, the skip from stride 4 reduced to 48 channels. The encoder is of the kind of ResNet-18
(He et al., "Deep Residual Learning for Image Recognition", 2016), and plain convolutions stand where the paper's larger
networks have separable ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATES = (6, 12, 18)
SKIP = 48


class DeepLabV3Plus(nn.Module):
    """From (B, inputs, H, W) to (B, outputs, H, W) logits; H and W are multiples of 16.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        widths: Channels of the encoder's four stages, at strides 4, 8, 16 and 16.
        depths: Residual blocks of each.
        pyramid: Channels of each atrous branch and of the decoder.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        pyramid: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(inputs, widths[0], 7, stride=2), nn.MaxPool2d(3, 2, 1))
        # The last stage sees as far as one of stride 32 would, and keeps its resolution.
        stages = zip((widths[0], *widths[:-1]), widths, depths, (1, 2, 2, 1), (1, 1, 1, 2), strict=True)
        self.stages = nn.ModuleList(_stage(*sizes) for sizes in stages)
        self.pyramid = _AtrousPyramid(widths[-1], pyramid)
        self.skip = _conv_norm(widths[0], SKIP, 1)
        self.decoder = nn.Sequential(_conv_norm(pyramid + SKIP, pyramid), _conv_norm(pyramid, pyramid))
        self.logits = nn.Conv2d(pyramid, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (B, inputs, H, W)."""
        size = x.shape[2:]
        fine = x = self.stages[0](self.stem(x))
        for stage in self.stages[1:]:
            x = stage(x)
        x = F.interpolate(self.pyramid(x), fine.shape[2:], mode="bilinear")
        x = self.logits(self.decoder(torch.cat([x, self.skip(fine)], dim=1)))
        return F.interpolate(x, size, mode="bilinear")


class _AtrousPyramid(nn.Module):
    """Convolutions of several rates and the mean of the whole image, side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        branches = [_conv_norm(inputs, outputs, 1), *(_conv_norm(inputs, outputs, rate=rate) for rate in RATES)]
        self.branches = nn.ModuleList(branches)
        # Without a norm: of one image's mean there are no statistics.
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1), nn.ReLU())
        self.project = _conv_norm(outputs * (len(branches) + 1), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [branch(x) for branch in self.branches]
        whole: Tensor = self.whole(x)
        out: Tensor = self.project(torch.cat([*seen, whole.expand(-1, -1, *x.shape[2:])], dim=1))
        return out


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rate: int) -> None:
        super().__init__()
        self.first = _conv_norm(inputs, outputs, stride=stride, rate=rate)
        self.second = _conv_norm(outputs, outputs, rate=rate)[:2]
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv_norm(inputs, outputs, 1, stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.second(self.first(x)))


def _stage(inputs: int, outputs: int, depth: int, stride: int, rate: int) -> nn.Sequential:
    first = _ResidualBlock(inputs, outputs, stride, rate)
    return nn.Sequential(first, *(_ResidualBlock(outputs, outputs, 1, rate) for _ in range(depth - 1)))


def _conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, rate: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, rate * (kernel // 2), rate, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
