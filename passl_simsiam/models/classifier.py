"""A backbone with a classifier on top: the model of the linear probe and of fine-tuning."""

from __future__ import annotations

import paddle
from paddle import nn

from passl_simsiam.registry import METHODS


@METHODS.register
class Classifier(nn.Layer):
    """Images [b, C, H, W] -> logits [b, classes]. Whether the backbone trains is the task's business."""

    def __init__(self, backbone: nn.Layer, head: nn.Layer) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.backbone(x))
