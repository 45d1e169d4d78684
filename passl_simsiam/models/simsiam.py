"""SimSiam: Exploring Simple Siamese Representation Learning (Chen and He 2020, arXiv:2011.10566), algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from passl_simsiam.registry import METHODS


@METHODS.register
class SimSiam(nn.Layer):
    """Two views of the same images through one encoder f (backbone and projector) and one predictor h.

    Args:
        backbone: images [b, C, H, W] -> features [b, c].
        neck: the projector, features [b, c] -> z [b, d].
        head: the predictor, z [b, d] -> p [b, d].
    """

    def __init__(self, backbone: nn.Layer, neck: nn.Layer, head: nn.Layer) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head

    def forward(self, views: Sequence[paddle.Tensor]) -> dict[str, list[paddle.Tensor]]:
        """The loss to go with it is NegativeCosine, which stops the gradient at z."""
        x1, x2 = views  # two random augmentations of the same b images, each [b, C, H, W]
        h1, h2 = self.backbone(x1), self.backbone(x2)  # features, each [b, c]; batch statistics are of one view
        z1, z2 = self.neck(h1), self.neck(h2)  # projections, each [b, d]
        p1, p2 = self.head(z1), self.head(z2)  # predictions, each [b, d]
        return {"h": [h1, h2], "z": [z1, z2], "p": [p1, p2]}
