"""The network that weights say they are, made of our own components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from passl_simsiam.checkpoint.weights import apply_weights
from passl_simsiam.registry import BACKBONES, HEADS, NECKS

Nodes = Mapping[str, Mapping[str, Any]]


def build(nodes: Nodes, weights: Mapping[str, np.ndarray]) -> Any:
    """A paddle.nn.Layer with the layers `backbone`, `neck` and `head`, those in `nodes`, and these weights.

    Args:
        nodes: what architecture.architecture inferred. weights: in our names and orientation.

    Raises:
        UserError: the weights do not fit.
    """
    from paddle import nn

    model, features = nn.Layer(), 0
    for part, registry in (("backbone", BACKBONES), ("neck", NECKS), ("head", HEADS)):
        if part in nodes:
            arguments = {key: value for key, value in nodes[part].items() if key != "name"}
            component = registry.get(nodes[part]["name"])
            layer = component(**arguments) if part == "backbone" else component(features, **arguments)
            apply_weights(layer, weights, prefix=f"{part}.")
            setattr(model, part, layer)
            features = layer.out_channels
    return model


def outputs(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """What each layer of `build`'s model gives in evaluation mode: {"backbone": [b, c], ...}, float32.

    Args:
        images: [b, C, H, W], normalised.
    """
    import paddle

    model.eval()
    x, results = paddle.to_tensor(images), {}
    with paddle.no_grad():
        for part, layer in model.named_children():
            x = layer(x)
            results[part] = x.astype("float32").numpy()
    return results
