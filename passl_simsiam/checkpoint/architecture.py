"""Which network weights are: our Model nodes, inferred from shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from passl_simsiam.checkpoint.layouts import DEPTHS, KINDS, backbone_names
from passl_simsiam.errors import UserError


def architecture(weights: Mapping[str, Any], depth: int) -> dict[str, dict[str, Any]]:
    """Our Model nodes for weights in our names: backbone, and neck and head as far as they are there.

    Args:
        weights: arrays in our names and orientation.

    Raises:
        UserError: a shape that no network of ours has (a ResNeXt, a wide ResNet, layers that do not fit together).
    """
    width, in_channels, kernel, _ = weights["backbone.conv1.weight"].shape
    stem = {7: "imagenet", 3: "cifar"}.get(kernel)
    if stem is None:
        raise UserError(f"the first convolution is {kernel} x {kernel}; ours are 7 x 7 (imagenet) or 3 x 3 (cifar)")
    for name, shape in _backbone_shapes(depth, width, in_channels, kernel):
        if tuple(weights[name].shape) != shape:
            raise UserError(
                f"{name} is {list(weights[name].shape)}, but {list(shape)} in a ResNet-{depth} of width {width}: "
                "grouped and wide ResNets (ResNeXt, wide_resnet) are not supported"
            )
    features = weights["backbone.layer4.0.conv1.weight"].shape[0] * (4 if DEPTHS[depth][1] else 1)
    nodes: dict[str, dict[str, Any]] = {
        "backbone": {"name": f"ResNet{depth}", "width": width, "in_channels": in_channels, "stem": stem}
    }
    if layers := _layers(weights, "neck."):
        hidden, out = _mlp(weights, "neck.", layers, features)
        extras = _extras(weights, "neck.", layers, batch_norm="all")
        nodes["neck"] = {"name": "SimSiamProjector", "hidden_channels": hidden, "out_channels": out, "layers": layers}
        nodes["neck"] |= extras
        bare = f"neck.{3 * layers - 3}.bias" not in weights
        if layers == 2 and bare and extras == {"affine": True} and not _layers(weights, "head."):
            nodes["neck"] = {"name": "SimCLRProjector", "hidden_channels": hidden, "out_channels": out}
        features = out
    if layers := _layers(weights, "head."):
        hidden, out = _mlp(weights, "head.", layers, features)
        nodes["head"] = {"name": "SimSiamPredictor", "hidden_channels": hidden}
        nodes["head"] |= _extras(weights, "head.", layers, batch_norm="hidden")
        if out != features or layers != 2:
            raise UserError(
                f"the predictor has {layers} layers from {features} to {out} channels; SimSiam's has 2 and keeps"
            )
    elif "head.weight" in weights:
        if weights["head.weight"].shape[0] != features:
            raise UserError(
                f"the classifier takes {weights['head.weight'].shape[0]} features, the network has {features}"
            )
        nodes["head"] = {"name": "LinearClassifier", "num_classes": weights["head.weight"].shape[1]}
    return nodes


def _backbone_shapes(depth: int, width: int, in_channels: int, kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(our name, shape) of every tensor of a ResNet."""
    bottleneck = DEPTHS[depth][1]
    channels = in_channels
    entered = 0  # channels that enter the block
    for kind, name, _ in backbone_names(depth, "torchvision"):
        if name == "conv1":
            channels, shape = width, (width, in_channels, kernel, kernel)
        elif kind == "conv":
            stage, inside = int(name[5]), name.split(".", 2)[2]
            narrow = width * 2 ** (stage - 1)
            wide = narrow * (4 if bottleneck else 1)
            if inside == "conv1":
                entered = channels
            if inside == "downsample.0":
                shape = (wide, entered, 1, 1)
            else:
                last = inside == ("conv3" if bottleneck else "conv2")
                size = 1 if bottleneck and inside != "conv2" else 3
                shape = (wide if last else narrow, channels, size, size)
            channels = shape[0]
        for tensor, _ in KINDS[kind]:
            yield f"backbone.{name}.{tensor}", shape if kind == "conv" else (channels,)


def _layers(weights: Mapping[str, Any], prefix: str) -> int:
    return sum(f"{prefix}{3 * i}.weight" in weights for i in range(3))


def _mlp(weights: Mapping[str, Any], prefix: str, layers: int, features: int) -> tuple[int, int]:
    """Hidden and output width of an MLP, whose shapes are checked."""
    hidden = out = features
    for i in range(layers):
        linear = weights[f"{prefix}{3 * i}.weight"]
        if linear.shape[0] != out or (0 < i < layers - 1 and linear.shape[1] != hidden):
            raise UserError(f"{prefix}{3 * i}.weight is {list(linear.shape)}, but {out} channels come into it")
        out = linear.shape[1]
        hidden = out if i == 0 else hidden
        for name in (f"{3 * i}.bias", *(f"{3 * i + 1}.{tensor}" for tensor, _ in KINDS["bn"])):
            if prefix + name in weights and tuple(weights[prefix + name].shape) != (out,):
                raise UserError(f"{prefix}{name} is {list(weights[prefix + name].shape)}, not {[out]}")
    return hidden, out


def _extras(weights: Mapping[str, Any], prefix: str, layers: int, *, batch_norm: str) -> dict[str, Any]:
    """The arguments of our projector or predictor that differ from the published one's; `batch_norm` is its default."""
    *hidden, last = [f"{prefix}{3 * i + 1}._mean" in weights for i in range(layers)]
    places = ("all" if last else "hidden") if all(hidden) else "none"
    extras: dict[str, Any] = {} if places == batch_norm else {"batch_norm": places}
    if all(hidden) and any(f"{prefix}{3 * i}.bias" in weights for i in range(layers - 1)):
        extras["bias"] = True
    if batch_norm == "all" and f"{prefix}{3 * layers - 2}.weight" in weights:
        extras["affine"] = True
    return extras
