"""Losses. Each computes in float32 whatever precision the model ran in; float64 stays float64."""

from __future__ import annotations

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


@LOSSES.register
class NegativeCosine:
    """The symmetric negative cosine similarity of SimSiam (arXiv:2011.10566, eq. 2 and 4).

    D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2, from -1 (best) to 1. It detaches z itself: an outer detach
    that somebody forgets would let the model collapse.
    """

    def __call__(self, outputs: Outputs) -> paddle.Tensor:
        """{"z": [z1, z2], "p": [p1, p2]}, each [b, d], to a scalar."""
        (z1, z2), (p1, p2) = outputs["z"], outputs["p"]
        with paddle.amp.auto_cast(enable=False):
            return (self._distance(p1, z2) + self._distance(p2, z1)) / 2

    @staticmethod
    def _distance(p: paddle.Tensor, z: paddle.Tensor) -> paddle.Tensor:
        """D in the paper's algorithm 1."""
        z = z.detach()  # stop gradient
        return -(unit_rows(p) * unit_rows(z)).sum(axis=1).mean()


@LOSSES.register
class CrossEntropy:
    """Mean cross-entropy of a classifier."""

    def __call__(self, outputs: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        """{"logits": [b, classes], "labels": int64 [b]} to a scalar."""
        with paddle.amp.auto_cast(enable=False):
            return F.cross_entropy(at_least_float32(outputs["logits"]), outputs["labels"])
