"""What is exported: a network, the images that it wants, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from passl_simsiam.models.normalize import Normalize

INPUT = "images"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode.

    Attributes:
        layer: normalised images, float32 [b, channels, size, size], to float32 [b, d].
        output: what the d numbers are called: "logits", "features".
        size: pixels a side.
        mean, std: of each channel, pixel values in 0..1.
        view: how a picture becomes `size` x `size` pixels: a transform's name and its arguments.
        classes: the name of each logit, or None.
        source: where the weights come from ("path", "sha256", ...), as JSON would hold it.
    """

    layer: nn.Layer
    output: str
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    view: Mapping[str, Any]
    classes: Sequence[str] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return len(self.mean)

    def normalized(self, images: Array) -> Array:
        """uint8 [b, size, size, channels] to the float32 [b, channels, size, size] that `layer` takes."""
        return Normalize(self.mean, self.std)(paddle.to_tensor(images)).numpy()

    def run(self, images: Array) -> Array:
        """The dygraph outputs, float32 [b, d], of uint8 [b, size, size, channels]: what an exported model must give."""
        with paddle.no_grad():
            return self.layer(paddle.to_tensor(self.normalized(images))).numpy()


class Exported(nn.Layer):
    """The layer that is written: `network.layer`, behind the normalisation of raw pixels where they are its input.

    Args:
        raw: take uint8 [b, size, size, channels] in place of normalised float32 [b, channels, size, size].
    """

    def __init__(self, network: Network, raw: bool) -> None:
        super().__init__()
        self.network, self.raw = network.layer, raw
        for name, values in (("mean", network.mean), ("std", network.std)):
            levels = 255 * np.asarray(values, np.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, paddle.to_tensor(levels))
        self.eval()

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        if self.raw:
            images = (images.transpose([0, 3, 1, 2]).astype("float32") - self.mean) / self.std
        return self.network(images)


def input_spec(network: Network, raw: bool) -> InputSpec:
    """The input, its first axis, the batch, open."""
    side, channels = network.size, network.channels
    shape = [None, side, side, channels] if raw else [None, channels, side, side]
    return InputSpec(shape, "uint8" if raw else "float32", INPUT)
