"""Projectors: from the backbone's features to the space in which the loss compares views."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Interval
from paddle import nn

from passl_simsiam.models.layers import BatchNormPlaces, hidden, linear
from passl_simsiam.registry import NECKS


@NECKS.register
class SimSiamProjector(nn.Sequential):
    """SimSiam's projection MLP (arXiv:2011.10566, section 3): features [b, in_channels] -> z [b, out_channels].

    Each layer is a linear map and batch norm, all but the last with ReLU. The last batch norm has no affine part.
    It takes away whatever constant the last linear layer adds, so that layer's bias stays frozen at its start value,
    as in the published code. Sub-layers are numbered as there: 0, 3 and 6 are the linear ones of three.

    Args:
        in_channels: width of the features.
        out_channels: width of z (2048 for ImageNet).
        hidden_channels: width between the layers; None means `in_channels`, as published.
        layers: 3 for ImageNet, 2 for CIFAR-10 (paper, appendix D).
        batch_norm: where it stands; for the ablation of table 3. An output without it has a trainable bias.
        bias: whether hidden linear layers have one before batch norm, as in some projects' weights.
        affine: whether the last batch norm has weight and bias, as in some projects' weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: Annotated[int, Ge(1)] = 2048,
        hidden_channels: Annotated[int, Ge(1)] | None = None,
        layers: Annotated[int, Interval(ge=2, le=3)] = 3,
        batch_norm: BatchNormPlaces = "all",
        bias: bool = False,
        affine: bool = False,
    ) -> None:
        width = hidden_channels or in_channels
        modules: list[nn.Layer] = []
        for index in range(layers - 1):
            modules += hidden(width if index else in_channels, width, batch_norm, bias)
        modules.append(linear(width, out_channels))
        if batch_norm == "all":
            modules[-1].bias.stop_gradient = True
            attributes = None if affine else False
            modules.append(nn.BatchNorm1D(out_channels, weight_attr=attributes, bias_attr=attributes))
        super().__init__(*modules)
        self.out_channels = out_channels
