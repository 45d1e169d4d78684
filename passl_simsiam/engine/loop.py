"""The only training loop. Every task runs through it; what they do differently is their `Learner`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from passl_simsiam import watchdog
from passl_simsiam.engine.step import Outcome, Requests, Stepper

if TYPE_CHECKING:
    from passl_simsiam.data.loader import Loader

Rates = Callable[[int], dict[str, float]]


@dataclass
class Place:
    """What a checkpoint keeps of where training stands, beside tensors; plain data.

    Attributes:
        step: optimizer steps finished, skipped ones included.
        epoch: the epoch in progress, or just finished, from 1.
        images: images trained on so far, over all ranks; an image counts once, however many views it has.
        skipped, skipped_in_a_row: steps without an update, because loss or gradients were not finite.
        loss_sum, loss_count: of the epoch's steps so far.
        epoch_due: the epoch's last step is done, but what follows it (evaluation, its record) is not.
        metrics: what is known of the epoch just finished, by the names of metrics.jsonl.
        best: the best value of the metric that chooses the best checkpoint, so far.
        best_epoch: the epoch that it was found in.
    """

    step: int = 0
    epoch: int = 0
    images: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    epoch_due: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_epoch: int = 0


@dataclass
class TrainState(Place):
    """Where training stands. The loop writes it; callbacks read it, and add to `metrics` what they found.

    Attributes:
        last_step: the step at which this run ends.
        rates: learning rate of each parameter group in the step just finished.
        loss: of the step just finished, the mean over ranks.
        outputs: the model's for it on this rank, still on the device. Reading one waits for the device, so callbacks
            read them only on steps that they report.
        indices: the samples of this rank in the step, int64 [b].
        save: some rank asked for a checkpoint after this step.
        stop: why training is to end after this step, or None; a callback sets it, on all ranks alike.
    """

    last_step: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    loss: float = float("nan")
    outputs: dict[str, Any] = field(default_factory=dict)
    indices: np.ndarray | None = None
    save: bool = False
    stop: str | None = None

    def place(self) -> dict[str, Any]:
        """The fields of `Place`, as JSON holds them."""
        return asdict(Place(**{name: getattr(self, name) for name in Place.__dataclass_fields__}))

    def restore(self, place: dict[str, Any]) -> None:
        """Go where `place()` was taken; what else a checkpoint holds beside it is left alone."""
        known = {name: place[name] for name in Place.__dataclass_fields__ if name in place}
        for name, value in asdict(Place(**known)).items():
            setattr(self, name, value)


class Callback:
    """Something that happens beside training. Steps are counted when finished; epochs from 1."""

    def before_epoch(self, state: TrainState) -> None: ...

    def before_update(self, state: TrainState) -> None:
        """The step's gradients are there, averaged over ranks; loss and outputs too. Not called for skipped steps."""

    def after_step(self, state: TrainState) -> None:
        """The weights have been updated. Not called for skipped steps."""

    def after_skipped(self, state: TrainState) -> None:
        """The step's loss or gradients were not finite, and nothing was changed."""

    def after_epoch(self, state: TrainState) -> None: ...

    def after_training(self, state: TrainState) -> None: ...


#: `TrainState.stop` where a rank asked for it, by a signal for instance.
ASKED = "asked to stop"


def fit(
    stepper: Stepper,
    loader: Loader,
    rates: Rates,
    *,
    epochs: int,
    state: TrainState,
    max_steps: int | None = None,
    requests: Requests | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train from `state` to the end of the last epoch, to step `max_steps`, or until asked to stop.

    Args:
        rates: the learning rate of every parameter group at a step (0-based).
        state: where to start, `TrainState()` for the beginning; changed in place.
        requests: what this rank asks for, read at each step; a save asked for is taken off it.
        callbacks: called in order. `after_epoch` is not called for an epoch that is cut short.
    """
    requests = requests or Requests()
    steps_per_epoch, total = len(loader), epochs * len(loader)
    state.last_step = min(total, max_steps or total)

    def before_update(outcome: Outcome) -> None:
        state.loss, state.outputs = outcome.loss, outcome.outputs
        for callback in callbacks:
            callback.before_update(state)

    if state.epoch_due:
        _end_epoch(state, callbacks)
    while state.step < state.last_step and not state.stop:
        epoch, first = divmod(state.step, steps_per_epoch)
        state.epoch = epoch + 1
        if first == 0:
            state.metrics, state.loss_sum, state.loss_count = {}, 0.0, 0
        stepper.learner.train()
        for callback in callbacks:
            callback.before_epoch(state)
        for batch in loader.epoch(epoch, first):
            watchdog.beat(f"step {state.step + 1}")
            state.indices = batch["index"]
            state.rates = rates(state.step)
            outcome = stepper.step(batch, state.rates, requests, before_update)
            requests.save = requests.save and not outcome.save
            _count(state, outcome, loader.images(state.step % steps_per_epoch))
            state.epoch_due = state.step % steps_per_epoch == 0
            for callback in callbacks:
                (callback.after_step if outcome.finite else callback.after_skipped)(state)
            if state.stop or state.step == state.last_step:
                break
        if state.epoch_due and not state.stop:
            _end_epoch(state, callbacks)
    for callback in callbacks:
        callback.after_training(state)


def _count(state: TrainState, outcome: Outcome, images: int) -> None:
    state.loss, state.outputs = outcome.loss, outcome.outputs
    state.step += 1
    state.images += images
    state.save = outcome.save
    if outcome.stop:
        state.stop = ASKED
    if outcome.finite:
        state.skipped_in_a_row = 0
        state.loss_sum += outcome.loss
        state.loss_count += 1
    else:
        state.skipped += 1
        state.skipped_in_a_row += 1


def _end_epoch(state: TrainState, callbacks: Sequence[Callback]) -> None:
    with watchdog.phase(f"what ends epoch {state.epoch}"):
        for callback in callbacks:
            callback.after_epoch(state)
    state.epoch_due = False
