"""Mixed precision on GPUs. Weights, velocities, statistics and the loss stay float32; only the forward pass is cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import paddle

Level = Literal["O1", "O2"]
Dtype = Literal["bfloat16", "float16"]


def autocast(forward: Callable[..., Any], level: Level, dtype: Dtype) -> Callable[..., Any]:
    """`forward` under autocast, its floating outputs returned as float32, so that the loss is computed in it.

    Args:
        level: O1 casts the operations that gain by it (convolutions, matrix products); O2 all but those that would
            lose, such as softmax and the statistics of batch norm. Both cast float32 weights on the way in, so there
            are no master weights to keep or to save.
    """

    def cast(*inputs: Any) -> Any:
        with paddle.amp.auto_cast(True, level=level, dtype=dtype):
            outputs = forward(*inputs)
        return _float32(outputs)

    return cast


def _float32(outputs: Any) -> Any:
    if isinstance(outputs, dict):
        return {name: _float32(value) for name, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return [_float32(value) for value in outputs]
    low = isinstance(outputs, paddle.Tensor) and outputs.dtype in (paddle.float16, paddle.bfloat16)
    return outputs.astype("float32") if low else outputs


class LossScaler:
    """Multiplies the loss, so that float16 gradients do not underflow (Micikevicius et al. 2018, section 3.2).

    The scale halves at each step that overflows, which is skipped, and doubles after `patience` good ones in a row.
    bfloat16 has float32's range and needs none.
    """

    def __init__(self, scale: float = 2.0**16, patience: int = 2000) -> None:
        self.scale, self._patience, self._good = scale, patience, 0

    def update(self, finite: bool) -> None:
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.scale = max(1.0, self.scale / 2)
        elif self._good == self._patience:
            self.scale, self._good = self.scale * 2, 0

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "good": self._good}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale, self._good = state["scale"], int(state["good"])
