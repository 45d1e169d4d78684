"""What a model is made of and costs: shape by stage, parameters, multiply-adds. Plain data, printed elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Stage:
    """One row: a layer of the model that is not looked into further.

    Attributes:
        name: structural name ("backbone.layer1").
        shape: of its last output.
        parameters: numbers of weights and biases, frozen ones included, batch-norm statistics not.
        macs: multiply-adds of the forward pass, over all its calls.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class Summary:
    """The stages in order of definition, and the whole model: numbers of parameters, multiply-adds of the forward."""

    stages: tuple[Stage, ...]
    parameters: int
    trainable: int
    macs: int

    @property
    def flops(self) -> int:
        return 2 * self.macs


def summarize(model: nn.Layer, *inputs: Any) -> Summary:
    """Run `model(*inputs)` once, in evaluation mode and without gradients, and report on it.

    Counted are convolutions, linear layers, and one multiply-add an element for batch norms; work outside layers
    (attention, pooling, sums) is not. Stages are the layers reached without entering an nn.Sequential, so a
    ResNet's rows are conv1, bn1, maxpool, layer1 ... layer4. Modes and statistics of the model stay as they were.
    """
    layers = model.sublayers(include_self=True)
    modes = [layer.training for layer in layers]
    shapes: dict[nn.Layer, tuple[int, ...]] = {}
    macs: Counter[nn.Layer] = Counter()

    def record(layer: nn.Layer, _: Any, output: Any) -> None:
        if isinstance(output, paddle.Tensor):
            shapes[layer] = tuple(output.shape)
            macs[layer] += _macs(layer, output)

    hooks = [layer.register_forward_post_hook(record) for layer in layers]
    try:
        model.eval()
        with paddle.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in zip(layers, modes, strict=True):
            layer.training = training
    stages = tuple(
        Stage(name, shapes[layer], count_parameters(layer)[0], sum(macs[x] for x in layer.sublayers(include_self=True)))
        for name, layer in _stages(model)
        if layer in shapes
    )
    return Summary(stages, *count_parameters(model), sum(macs.values()))


def _macs(layer: nn.Layer, output: paddle.Tensor) -> int:
    """Multiply-adds of one call; each element of a linear map's output is a dot product with one filter or column."""
    if isinstance(layer, nn.Conv2D):
        return output.size * math.prod(layer.weight.shape[1:])  # weight [out, in / groups, h, w]
    if isinstance(layer, nn.Linear):
        return output.size * layer.weight.shape[0]  # weight [in, out]
    return output.size if isinstance(layer, _NORMS) else 0


def count_parameters(model: nn.Layer) -> tuple[int, int]:
    """(All, trainable) weights and biases. Batch-norm statistics, which Paddle lists as parameters, are left out."""
    values = [p for name, p in model.named_parameters() if not name.endswith(("_mean", "_variance"))]
    return sum(p.size for p in values), sum(p.size for p in values if not p.stop_gradient)


def _stages(layer: nn.Layer, prefix: str = "") -> Iterator[tuple[str, nn.Layer]]:
    for name, child in layer.named_children():
        if isinstance(child, nn.Sequential) or not any(True for _ in child.children()):
            yield prefix + name, child
        else:
            yield from _stages(child, f"{prefix}{name}.")
