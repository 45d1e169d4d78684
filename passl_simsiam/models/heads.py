"""What stands behind the projector or the backbone: SimSiam's predictor and the linear classifier."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal

from passl_simsiam.models.layers import BatchNormPlaces, hidden, linear
from passl_simsiam.registry import HEADS


@HEADS.register
class SimSiamPredictor(nn.Sequential):
    """SimSiam's prediction MLP h (arXiv:2011.10566, section 3): z [b, in_channels] -> p [b, in_channels].

    A bottleneck, with no batch norm on the output: with it, training is unstable (paper, table 3d).

    Args:
        in_channels: width of z and of p.
        hidden_channels: width of the bottleneck, a quarter of z's in the paper.
        batch_norm: where it stands; for the ablation of table 3.
        trainable: False leaves the weights as they start; for the ablation of table 1b.
        bias: whether the hidden linear layer has one before batch norm, as in some projects' weights.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Annotated[int, Ge(1)] = 512,
        batch_norm: BatchNormPlaces = "hidden",
        trainable: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__(*hidden(in_channels, hidden_channels, batch_norm, bias), linear(hidden_channels, in_channels))
        if batch_norm == "all":
            self.append(nn.BatchNorm1D(in_channels))
        if not trainable:
            for parameter in self.parameters():
                parameter.stop_gradient = True
        self.out_channels = in_channels


@HEADS.register
class NoPredictor(nn.Identity):
    """p = z [b, in_channels]: SimSiam without its predictor, for the ablation of table 1a (arXiv:2011.10566)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels


@HEADS.register
class LinearClassifier(nn.Linear):
    """Features [b, in_channels] -> logits [b, num_classes]; weight from N(0, 0.01^2), bias 0, as published."""

    def __init__(self, in_channels: int, num_classes: Annotated[int, Ge(2)]) -> None:
        weight, bias = ParamAttr(initializer=Normal(0.0, 0.01)), ParamAttr(initializer=Constant(0.0))
        super().__init__(in_channels, num_classes, weight, bias)
        self.out_channels = num_classes
