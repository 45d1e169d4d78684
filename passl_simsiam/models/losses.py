"""Losses. Each computes in float32 whatever precision the model ran in; float64 stays float64."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import paddle
import paddle.nn.functional as F

from passl_simsiam.registry import LOSSES

Outputs = Mapping[str, Sequence[paddle.Tensor]]


def at_least_float32(x: paddle.Tensor) -> paddle.Tensor:
    return x if x.dtype == paddle.float64 else x.astype("float32")


def unit_rows(x: paddle.Tensor) -> paddle.Tensor:
    """Each row of x [b, d] divided by its Euclidean norm, or by 1e-8 where the norm is less."""
    x = at_least_float32(x)
    # Not F.normalize: the gradient of Paddle's norm adds a small epsilon of its own, 1e-11 off in float64.
    return x * x.square().sum(axis=1, keepdim=True).clip(min=1e-16).rsqrt()


class SiameseLoss(ABC):
    """A distance D between each view's prediction p and the other view's projection z.

    D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2. It detaches z itself: an outer detach that somebody forgets would
    let the model collapse. The arguments are for ablations.

    Args:
        stop_gradient: False lets the gradient through z, and the model collapses (arXiv:2011.10566, section 4.1).
        symmetric: False leaves D(p1, stopgrad(z2)) alone (section 4.6).
    """

    def __init__(self, stop_gradient: bool = True, symmetric: bool = True) -> None:
        self._stop_gradient, self._symmetric = stop_gradient, symmetric

    def __call__(self, outputs: Outputs) -> paddle.Tensor:
        """{"z": [z1, z2], "p": [p1, p2]}, each [b, d], to a scalar."""
        (z1, z2), (p1, p2) = outputs["z"], outputs["p"]
        if self._stop_gradient:
            z1, z2 = z1.detach(), z2.detach()
        with paddle.amp.auto_cast(enable=False):
            first = self._distance(p1, z2)
            return (first + self._distance(p2, z1)) / 2 if self._symmetric else first

    @staticmethod
    @abstractmethod
    def _distance(p: paddle.Tensor, z: paddle.Tensor) -> paddle.Tensor:
        """D, the mean over the batch."""


@LOSSES.register
class NegativeCosine(SiameseLoss):
    """The negative cosine similarity of SimSiam (arXiv:2011.10566, eq. 2 and 4), from -1 (best) to 1."""

    @staticmethod
    def _distance(p: paddle.Tensor, z: paddle.Tensor) -> paddle.Tensor:
        return -(unit_rows(p) * unit_rows(z)).sum(axis=1).mean()


@LOSSES.register
class CrossEntropySimilarity(SiameseLoss):
    """-softmax(z) . log softmax(p) over the channels (arXiv:2011.10566, section 4.5); at least 0, at most about log d
    for predictions no worse than guessing."""

    @staticmethod
    def _distance(p: paddle.Tensor, z: paddle.Tensor) -> paddle.Tensor:
        p, z = at_least_float32(p), at_least_float32(z)
        return -(F.softmax(z, axis=1) * F.log_softmax(p, axis=1)).sum(axis=1).mean()


@LOSSES.register
class CrossEntropy:
    """Mean cross-entropy of a classifier."""

    def __call__(self, outputs: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        """{"logits": [b, classes], "labels": int64 [b]} to a scalar."""
        with paddle.amp.auto_cast(enable=False):
            return F.cross_entropy(at_least_float32(outputs["logits"]), outputs["labels"])
