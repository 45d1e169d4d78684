"""LARC: layer-wise adaptive rate control (You et al. 2017, arXiv:1708.03888), the optimizer of the linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import paddle
from annotated_types import Ge, Gt, Interval

from passl_simsiam.optim.groups import ParamGroup
from passl_simsiam.optim.momentum import Momentum
from passl_simsiam.registry import OPTIMIZERS


@OPTIMIZERS.register
class LARC(Momentum):
    """Momentum SGD with a trust ratio on each parameter's step: the semantics of NVIDIA apex's LARC(clip=False).

    For each parameter tensor, biases included and at weight decay 0 too,
        v = momentum * v + a * (g + weight_decay * p),  a = trust * |p| / (|g| + weight_decay * |p| + 1e-8),
    with a = 1 where |p| or |g| is zero, as for a bias at its start; then p = p - rate * v.

    Args:
        groups, momentum: as for Momentum.
        weight_decay: enters under the trust ratio.
        trust: apex's trust_coefficient.
    """

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
        trust: Annotated[float, Gt(0)] = 0.001,
    ) -> None:
        super().__init__(groups, momentum, weight_decay)
        self._trust = trust

    def _direction(self, p: paddle.Tensor, g: paddle.Tensor) -> paddle.Tensor:
        # All on the device: a Python `if` on a norm would make the host wait at every parameter.
        p_norm, g_norm = paddle.linalg.norm(p), paddle.linalg.norm(g)
        ratio = self._trust * p_norm / (g_norm + self._weight_decay * p_norm + 1e-8)
        ratio = paddle.where((p_norm > 0) & (g_norm > 0), ratio, paddle.ones_like(ratio))
        return ratio * super()._direction(p, g)
