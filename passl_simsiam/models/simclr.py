"""SimCLR (Chen et al. 2020, arXiv:2002.05709): projector, method and NT-Xent loss, all that a second method takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import paddle
import paddle.nn.functional as F
from annotated_types import Ge, Gt
from paddle import nn

from passl_simsiam.models.layers import linear
from passl_simsiam.models.losses import Outputs, unit_rows
from passl_simsiam.registry import LOSSES, METHODS, NECKS


@NECKS.register
class SimCLRProjector(nn.Sequential):
    """The paper's two-layer g(h), with batch norm as in its published code: [b, in_channels] -> [b, out_channels]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: Annotated[int, Ge(1)] = 128,
        hidden_channels: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        width = hidden_channels or in_channels
        super().__init__(
            linear(in_channels, width, bias=False),
            nn.BatchNorm1D(width),
            nn.ReLU(),
            linear(width, out_channels, bias=False),
            nn.BatchNorm1D(out_channels),
        )
        self.out_channels = out_channels


@METHODS.register
class SimCLR(nn.Layer):
    """Two views through one backbone and one projector; no predictor, and the gradient flows through both."""

    def __init__(self, backbone: nn.Layer, neck: nn.Layer) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, views: Sequence[paddle.Tensor]) -> dict[str, list[paddle.Tensor]]:
        h = [self.backbone(x) for x in views]  # each x [b, C, H, W], each h [b, c]
        return {"h": h, "z": [self.neck(features) for features in h]}  # each z [b, d]


@LOSSES.register
class NTXent:
    """The normalised temperature-scaled cross-entropy (paper, eq. 1), averaged over the 2b views of a batch.

    A view's positive is the other view of its image, its negatives are the 2b - 2 views of the other images of the
    batch. With several processes these are the ones of its own process.

    Args:
        temperature: divides the cosine similarities; 0.1 to 0.5 in the paper.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 0.5) -> None:
        self.temperature = temperature

    def __call__(self, outputs: Outputs) -> paddle.Tensor:
        """{"z": [z1, z2]}, each [b, d], to a scalar."""
        z1, z2 = outputs["z"]
        b = z1.shape[0]
        with paddle.amp.auto_cast(enable=False):
            z = paddle.concat([unit_rows(z1), unit_rows(z2)])  # [2b, d]
            similarity = z @ z.T / self.temperature  # [2b, 2b]
            # A view is not its own negative: -1e9 where i = k leaves nothing of it in the softmax.
            similarity = similarity - 1e9 * paddle.eye(2 * b, dtype=similarity.dtype)
            positive = (paddle.arange(2 * b) + b) % (2 * b)  # row i's positive is the other view of image i mod b
            return F.cross_entropy(similarity, positive)
