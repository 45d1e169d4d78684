"""The only training loop. Every task runs through it; what they do differently is their `Learner`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import paddle

if TYPE_CHECKING:
    from passl_simsiam.data.loader import Batch, Loader

Rates = Callable[[int], dict[str, float]]


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
    def step(self, rates: Mapping[str, float]) -> None: ...
    def clear_grad(self) -> None: ...


@dataclass
class TrainState:
    """Where training stands. The loop writes it; callbacks read it, and add to `metrics` what they found.

    Attributes:
        step: optimizer steps finished.
        epoch: the epoch in progress, or just finished, from 1.
        images: images trained on so far, over all ranks; an image counts once, however many views it has.
        last_step: the step at which this run ends.
        rates: learning rate of each parameter group in the step just finished.
        loss, outputs: of the step just finished, still on the device. Reading one waits for the device, so callbacks
            read them only on steps that they report.
        metrics: what is known of the epoch just finished, by the names of metrics.jsonl.
        best: the best value of the metric that chooses the best checkpoint, so far.
        stop: why training is to end after this step, or None; a callback sets it, on all ranks alike.
    """

    step: int = 0
    epoch: int = 0
    images: int = 0
    last_step: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    loss: paddle.Tensor | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    stop: str | None = None


class Callback:
    """Something that happens beside training. Steps are counted when finished; epochs from 1."""

    def before_epoch(self, state: TrainState) -> None: ...

    def before_update(self, state: TrainState) -> None:
        """The step's gradients are there, averaged over ranks; loss and outputs too."""

    def after_step(self, state: TrainState) -> None: ...

    def after_epoch(self, state: TrainState) -> None: ...

    def after_training(self, state: TrainState) -> None: ...


def fit(
    learner: Learner,
    loader: Loader,
    optimizer: Optimizer,
    rates: Rates,
    *,
    epochs: int,
    state: TrainState,
    max_steps: int | None = None,
    accumulate: int = 1,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train from `state` to the end of the last epoch, or to step `max_steps`.

    Args:
        rates: the learning rate of every parameter group at a step (0-based).
        state: where to start, `TrainState()` for the beginning; changed in place.
        accumulate: parts that each batch is cut into; gradients add up to those of the whole batch, but batch norm
            sees one part at a time.
        callbacks: called in order. `after_epoch` is not called for an epoch that `max_steps` or `state.stop` cuts short.
    """
    steps_per_epoch, total = len(loader), epochs * len(loader)
    state.last_step = min(total, max_steps or total)
    while state.step < state.last_step and not state.stop:
        epoch, first = divmod(state.step, steps_per_epoch)
        state.epoch = epoch + 1
        state.metrics = {}
        learner.train()
        for callback in callbacks:
            callback.before_epoch(state)
        for batch in loader.epoch(epoch, first):
            state.rates = rates(state.step)
            state.loss, state.outputs = _forward_backward(learner, batch, accumulate)
            for callback in callbacks:
                callback.before_update(state)
            optimizer.step(state.rates)
            optimizer.clear_grad()
            state.images += loader.images(state.step % steps_per_epoch)
            state.step += 1
            for callback in callbacks:
                callback.after_step(state)
            if state.stop or state.step == state.last_step:
                break
        if state.step % steps_per_epoch == 0:
            for callback in callbacks:
                callback.after_epoch(state)
    for callback in callbacks:
        callback.after_training(state)


def _forward_backward(learner: Learner, batch: Batch, parts: int) -> tuple[paddle.Tensor, dict[str, Any]]:
    """Gradients of the mean loss over the batch; the loss, and the outputs of the last part."""
    total: paddle.Tensor | None = None
    outputs: dict[str, Any] = {}
    parts = min(parts, len(batch["label"]))
    labels = np.array_split(batch["label"], parts)
    views = [np.array_split(view, parts) for view in batch["views"]]
    for part, label in enumerate(labels):
        loss, outputs = learner.loss([paddle.to_tensor(view[part]) for view in views], paddle.to_tensor(label))
        loss = loss * (len(label) / len(batch["label"]))
        loss.backward()
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None  # no batch is empty
    return total, outputs
