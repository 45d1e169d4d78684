"""Convolution and linear layers initialised as the published PyTorch code does; Paddle's own defaults differ.

Batch norm needs no wrapper: Paddle's defaults (weight 1, bias 0, epsilon 1e-5, momentum 0.9, which PyTorch writes
as 0.1) are the published ones.
"""

from __future__ import annotations

import math
from typing import Literal

from paddle import ParamAttr, nn
from paddle.nn.initializer import Normal, Uniform

#: Which layers of a projector or predictor have batch norm behind them (arXiv:2011.10566, table 3).
BatchNormPlaces = Literal["none", "hidden", "all"]


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2D:
    """A bias-free convolution, padded by kernel // 2; weight N(0, 2 / fan_out) (He et al. 2015, eq. 14)."""
    std = math.sqrt(2 / (out_channels * kernel * kernel))
    weight = ParamAttr(initializer=Normal(0.0, std))
    return nn.Conv2D(in_channels, out_channels, kernel, stride, kernel // 2, weight_attr=weight, bias_attr=False)


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A linear layer with weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default."""
    bound = 1 / math.sqrt(in_features)
    start = ParamAttr(initializer=Uniform(-bound, bound))
    return nn.Linear(in_features, out_features, start, start if bias else False)


def hidden(in_features: int, out_features: int, batch_norm: BatchNormPlaces, bias: bool = False) -> list[nn.Layer]:
    """A hidden layer of an MLP: linear, batch norm, ReLU.

    Without batch norm the linear layer has the bias that would else be superfluous, and an Identity keeps the place, so
    that the layers behind are numbered alike. `bias` gives it one before batch norm too.
    """
    if batch_norm == "none":
        return [linear(in_features, out_features), nn.Identity(), nn.ReLU()]
    return [linear(in_features, out_features, bias), nn.BatchNorm1D(out_features), nn.ReLU()]
