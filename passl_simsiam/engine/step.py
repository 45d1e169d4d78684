"""One optimizer step, which happens on all ranks alike or leaves no trace on any."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import paddle

from passl_simsiam import distributed
from passl_simsiam.distributed import World
from passl_simsiam.engine.precision import LossScaler

if TYPE_CHECKING:
    from passl_simsiam.data.loader import Batch


class Learner(Protocol):
    """What a task teaches: a model and the loss of a batch."""

    model: paddle.nn.Layer
    #: Calls `model`; with several processes, through the wrapper that averages gradients.
    forward: Callable[..., Any]

    def train(self) -> None:
        """Put every layer into the mode it trains in (a probe's backbone stays in evaluation mode)."""

    def loss(self, views: list[paddle.Tensor], labels: paddle.Tensor) -> tuple[paddle.Tensor, dict[str, Any]]:
        """The scalar loss of uint8 views [b, H, W, C] with labels int64 [b], and the model's outputs."""


class Optimizer(Protocol):
    @property
    def parameters(self) -> Mapping[str, paddle.Tensor]: ...
    def step(self, rates: Mapping[str, float]) -> None: ...
    def clear_grad(self) -> None: ...


@dataclass
class Requests:
    """What this rank asks of all at the next step: to save a checkpoint; to stop after the step, and on whose wish."""

    save: bool = False
    stop: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a step came to, the same on all ranks but for `outputs`.

    Attributes:
        loss: the mean over ranks.
        finite: whether loss and gradients were; otherwise no weight, velocity or running statistic has changed.
        save, stop: whether any rank asked for it.
        outputs: the model's for this rank's (last part of the) batch, on the device.
    """

    loss: float
    finite: bool
    save: bool
    stop: bool
    outputs: dict[str, Any]


class Stepper:
    """Takes a learner's optimizer steps.

    Args:
        accumulate: parts that each batch is cut into; gradients add up to those of the whole batch, but batch norm
            sees one part at a time.
        scaler: keeps float16 gradients from underflow; None elsewhere.
    """

    def __init__(
        self,
        learner: Learner,
        optimizer: Optimizer,
        world: World,
        *,
        accumulate: int = 1,
        scaler: LossScaler | None = None,
    ) -> None:
        self.learner, self._optimizer, self._world = learner, optimizer, world
        self._accumulate, self._scaler = accumulate, scaler

    def step(
        self, batch: Batch, rates: Mapping[str, float], requests: Requests, before_update: Callable[[Outcome], None]
    ) -> Outcome:
        """Train on one batch; `before_update` is called when the gradients are there, unless the step is skipped."""
        running = [(tensor, tensor.clone()) for tensor in running_statistics(self.learner.model)]
        loss, outputs = self._gradients(batch)
        outcome = self._agree(loss, outputs, requests)
        if outcome.finite:
            before_update(outcome)
            self._optimizer.step(rates)
        else:
            for tensor, before in running:
                tensor.set_value(before)
        self._optimizer.clear_grad()
        if self._scaler is not None:
            self._scaler.update(outcome.finite)
        return outcome

    def _agree(self, loss: float, outputs: dict[str, Any], requests: Requests) -> Outcome:
        """One collective tells all ranks how the step went everywhere and what is asked for."""
        bad = not (math.isfinite(loss) and self._gradients_finite())
        asked = [float(bad), float(requests.save), float(requests.stop is not None)]
        loss, *flags = distributed.total([loss, *asked], self._world)
        bad, save, stop = (flag > 0 for flag in flags)
        return Outcome(loss / self._world.size, not bad, save, stop, outputs)

    def _gradients_finite(self) -> bool:
        # Gradients are float32 or wider, as weights are: a sum passes NaN and infinity on and does not overflow itself.
        sums = [p.grad.sum() for p in self._optimizer.parameters.values() if p.grad is not None]
        return bool(paddle.isfinite(paddle.stack(sums)).all().item()) if sums else True

    def _gradients(self, batch: Batch) -> tuple[float, dict[str, Any]]:
        """Gradients of the mean loss over the batch; the loss, and the outputs of the last part."""
        total = 0.0
        outputs: dict[str, Any] = {}
        parts = min(self._accumulate, len(batch["label"]))
        labels = np.array_split(batch["label"], parts)
        views = [np.array_split(view, parts) for view in batch["views"]]
        scale = self._scaler.scale if self._scaler is not None else 1.0
        for part, label in enumerate(labels):
            value, outputs = self.learner.loss(
                [paddle.to_tensor(view[part]) for view in views], paddle.to_tensor(label)
            )
            value = value * (len(label) / len(batch["label"]))
            (value * scale if scale != 1 else value).backward()
            total += value.item()
        if scale != 1:
            with paddle.no_grad():
                for p in self._optimizer.parameters.values():
                    if p.grad is not None:
                        p.grad.scale_(1 / scale)
        return total, outputs


def running_statistics(model: paddle.nn.Layer) -> list[paddle.Tensor]:
    """The tensors that a training forward pass changes: statistics of batch norms in training mode."""
    return [
        getattr(layer, name)
        for layer in model.sublayers(include_self=True)
        if layer.training
        for name in ("_mean", "_variance")
        if isinstance(getattr(layer, name, None), paddle.Tensor)
    ]
