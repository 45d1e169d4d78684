"""ResNet (He et al. 2016, arXiv:1512.03385) of any width, with the ImageNet or the CIFAR stem.

Parameter names are torchvision's (conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, ...), and so is the place of a
bottleneck's stride, on the 3x3 convolution. The fully connected layer is left out: features are the product here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import paddle
import paddle.nn.functional as F
from annotated_types import Ge
from paddle import nn

from passl_simsiam.errors import UserError
from passl_simsiam.models.layers import conv
from passl_simsiam.registry import BACKBONES

# Up to this many pixels a side, the ImageNet stem (stride 4 before the first block) would leave too little to see.
CIFAR_STEM_UP_TO = 64


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The projection shortcut, where the identity does not fit."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2D(out_channels))


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions, `channels` wide; the block of ResNet-18 and 34."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, channels, 3, stride), nn.BatchNorm2D(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), nn.BatchNorm2D(channels)
        self.downsample = _downsample(in_channels, channels, stride)
        self.last_bn = "bn2"

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Layer):
    """1x1, 3x3, 1x1 convolutions, `channels` wide inside and 4 x `channels` outside; ResNet-50 and deeper."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1, self.bn1 = conv(in_channels, channels, 1), nn.BatchNorm2D(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3, stride), nn.BatchNorm2D(channels)
        self.conv3, self.bn3 = conv(channels, out_channels, 1), nn.BatchNorm2D(out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride)
        self.last_bn = "bn3"

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Layer):
    """Images [b, in_channels, H, W] to average-pooled features [b, out_channels].

    Args:
        width: channels of the stem and the first stage (64 as published); each later stage has twice as many.
        in_channels: channels of the images.
        stem: "imagenet" (7x7 convolution of stride 2, max-pool), "cifar" (3x3 convolution, no pool), or "auto", by
            `image_size`: the CIFAR stem up to 64 pixels, the ImageNet stem above.
        image_size: pixels a side of the training images; only "auto" needs it.
        zero_init_residual: start the last batch norm of each block at weight 0, so that every block starts as the
            identity (Goyal et al. 2017, section 5.1; so does the published SimSiam).

    Attributes:
        out_channels: width of the features. stem: the stem as resolved, "imagenet" or "cifar".

    Raises:
        UserError: stem "auto" without an image size.
    """

    block: ClassVar[type[BasicBlock] | type[Bottleneck]]
    depths: ClassVar[tuple[int, int, int, int]]

    def __init__(
        self,
        width: Annotated[int, Ge(1)] = 64,
        in_channels: Annotated[int, Ge(1)] = 3,
        stem: Literal["auto", "imagenet", "cifar"] = "auto",
        image_size: Annotated[int, Ge(1)] | None = None,
        zero_init_residual: bool = True,
    ) -> None:
        super().__init__()
        if stem == "auto":
            if image_size is None:
                raise UserError("stem 'auto' needs the image size, which is not known here; choices: cifar, imagenet")
            stem = "cifar" if image_size <= CIFAR_STEM_UP_TO else "imagenet"
        self.stem = stem
        self.conv1 = conv(in_channels, width, 7, stride=2) if stem == "imagenet" else conv(in_channels, width, 3)
        self.bn1 = nn.BatchNorm2D(width)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        self.out_channels = width
        self.layer1 = self._stage(width, self.depths[0], stride=1)
        self.layer2 = self._stage(2 * width, self.depths[1], stride=2)
        self.layer3 = self._stage(4 * width, self.depths[2], stride=2)
        self.layer4 = self._stage(8 * width, self.depths[3], stride=2)
        if zero_init_residual:
            for layer in self.sublayers():
                if isinstance(layer, (BasicBlock, Bottleneck)):
                    nn.initializer.Constant(0.0)(getattr(layer, layer.last_bn).weight)

    def _stage(self, channels: int, depth: int, stride: int) -> nn.Sequential:
        """`depth` blocks, the first of them with the stride; moves `out_channels` on."""
        blocks = []
        for index in range(depth):
            blocks.append(self.block(self.out_channels, channels, stride if index == 0 else 1))
            self.out_channels = channels * self.block.expansion
        return nn.Sequential(*blocks)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # [b, width, H/2, W/2], or [b, width, H, W] with the CIFAR stem
        x = self.maxpool(x)  # [b, width, H/4, W/4], or unchanged
        x = self.layer1(x)
        x = self.layer2(x)  # half the side, twice the channels
        x = self.layer3(x)
        x = self.layer4(x)  # [b, out_channels, H/32, W/32], or H/8, W/8
        return x.mean(axis=[2, 3])  # [b, out_channels]


@BACKBONES.register
class ResNet18(ResNet):
    block, depths = BasicBlock, (2, 2, 2, 2)


@BACKBONES.register
class ResNet34(ResNet):
    block, depths = BasicBlock, (3, 4, 6, 3)


@BACKBONES.register
class ResNet50(ResNet):
    block, depths = Bottleneck, (3, 4, 6, 3)


@BACKBONES.register
class ResNet101(ResNet):
    block, depths = Bottleneck, (3, 4, 23, 3)


@BACKBONES.register
class ResNet152(ResNet):
    block, depths = Bottleneck, (3, 8, 36, 3)
