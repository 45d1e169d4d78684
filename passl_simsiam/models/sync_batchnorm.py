"""Batch norm over the batches of all processes: Paddle's own layer on GPU, ours on CPU, where Paddle has none."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

PLAIN = (nn.BatchNorm1D, nn.BatchNorm2D)


def synchronize_batch_norm(model: nn.Layer) -> nn.Layer:
    """`model` with every batch norm replaced by one that shares its statistics; parameters, buffers and their names
    stay. Without it SimSiam on ImageNet loses 3 points (arXiv:2011.10566, section 4.4)."""
    if paddle.get_device().startswith("gpu"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for layer in model.sublayers(include_self=True):
        for name, child in layer.named_children():
            if isinstance(child, PLAIN):
                setattr(layer, name, SyncBatchNorm(child))
    return model


class SyncBatchNorm(nn.Layer):
    """A batch norm layer that normalises by mean and (biased) variance over the batches of all processes.

    Inputs [b, C] or [b, C, H, W], b may differ by process.

    Args:
        plain: the layer whose parameters and running statistics it takes over.
    """

    def __init__(self, plain: nn.Layer) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self._mean, self._variance = plain._mean, plain._variance
        self._momentum, self._epsilon = plain._momentum, plain._epsilon

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training:
            return F.batch_norm(x, self._mean, self._variance, self.weight, self.bias, epsilon=self._epsilon)
        normalized, mean, variance = _Normalize.apply(x, self._epsilon)
        with paddle.no_grad():
            for running, batch in ((self._mean, mean), (self._variance, variance)):
                running.set_value(running * self._momentum + batch.detach() * (1 - self._momentum))
        if self.weight is not None:
            normalized = normalized * _by_channel(self.weight, x) + _by_channel(self.bias, x)
        return normalized


class _Normalize(PyLayer):
    """x -> (x - mean) / sqrt(variance + epsilon), and the two statistics [C].

    Two passes: the mean first, then the squares around it, for E[x^2] - mean^2 cancels in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, epsilon: float) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        axes = _all_but_channel(x)
        count = paddle.full([1], x.size // x.shape[1], x.dtype)
        sums = _reduced(paddle.concat([x.sum(axis=axes), count]))
        total, mean = sums[-1], sums[:-1] / sums[-1]
        centred = x - _by_channel(mean, x)
        variance = _reduced((centred * centred).sum(axis=axes)) / total
        inverse = 1 / paddle.sqrt(variance + epsilon)
        normalized = centred * _by_channel(inverse, x)
        ctx.save_for_backward(normalized, inverse, total)
        return normalized, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor, *_: Any) -> paddle.Tensor:
        """The gradient of batch norm (Ioffe and Szegedy 2015, section 3) with both of its means over all processes."""
        normalized, inverse, total = ctx.saved_tensor()
        axes = _all_but_channel(gradient)
        sums = _reduced(paddle.stack([gradient.sum(axis=axes), (gradient * normalized).sum(axis=axes)])) / total
        centred = gradient - _by_channel(sums[0], gradient) - normalized * _by_channel(sums[1], gradient)
        return centred * _by_channel(inverse, gradient)


def _reduced(x: paddle.Tensor) -> paddle.Tensor:
    """The sum over all processes."""
    dist.all_reduce(x)
    return x


def _all_but_channel(x: paddle.Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _by_channel(values: paddle.Tensor, x: paddle.Tensor) -> paddle.Tensor:
    """[C] in the shape that broadcasts against x [b, C, ...]."""
    return values.reshape([1, -1] + [1] * (x.ndim - 2))
