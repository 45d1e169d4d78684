"""The loop's promises: which rates it sets, what it counts, and that accumulation changes no gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from passl_simsiam.distributed import World
from passl_simsiam.engine.loop import ASKED, Callback, TrainState, fit
from passl_simsiam.engine.step import Requests, Stepper


class Numbers:
    """A loader of ten numbers, in batches of four: three steps an epoch, the last one short."""

    batch_size, count = 4, 10

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 3

    def images(self, step: int) -> int:
        return min(self.batch_size, self.count - step * self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        self.asked.append((epoch, start))
        for step in range(start, 3):
            x = np.arange(step * 4, step * 4 + self.images(step), dtype=np.float32)
            yield {"views": [x[:, None]], "label": np.zeros(len(x), np.int64), "index": x.astype(np.int64)}


class Line:
    """The mean of (w x)^2: its gradient is linear in the mean of x^2 over the batch."""

    def __init__(self) -> None:
        self.model = paddle.nn.Linear(1, 1, bias_attr=False)
        self.model.weight.set_value(paddle.ones([1, 1]))
        self.trained = 0

    def train(self) -> None:
        self.trained += 1

    def loss(self, views: list[paddle.Tensor], labels: paddle.Tensor) -> tuple[paddle.Tensor, dict[str, Any]]:
        y = self.model(views[0])
        return (y * y).mean(), {"y": y}


class Recording:
    """An optimizer that only remembers."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.model, self.rates, self.gradients = model, [], []
        self.parameters = {"weight": model.weight}

    def step(self, rates: dict[str, float]) -> None:
        self.rates.append(rates["main"])
        self.gradients.append(self.model.weight.grad.item())

    def clear_grad(self) -> None:
        self.model.clear_gradients()


class Diary(Callback):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def before_epoch(self, state: TrainState) -> None:
        self.lines.append(f"begin {state.epoch}")

    def after_step(self, state: TrainState) -> None:
        self.lines.append(f"step {state.step} {state.images}")

    def after_skipped(self, state: TrainState) -> None:
        self.lines.append(f"skip {state.step} {state.skipped_in_a_row}")

    def after_epoch(self, state: TrainState) -> None:
        self.lines.append(f"end {state.epoch}")

    def after_training(self, state: TrainState) -> None:
        self.lines.append("done")


def train(
    state: TrainState | None = None, accumulate: int = 1, **options: Any
) -> tuple[Recording, Numbers, Diary, TrainState]:
    learner, loader, diary, state = options.pop("learner", Line()), Numbers(), Diary(), state or TrainState()
    optimizer = Recording(learner.model)
    stepper = Stepper(learner, optimizer, World(), accumulate=accumulate)
    rates = lambda step: {"main": float(step)}  # noqa: E731
    fit(stepper, loader, rates, epochs=2, state=state, callbacks=[diary], **options)
    return optimizer, loader, diary, state


def test_steps_epochs_and_images_are_counted() -> None:
    optimizer, loader, diary, _ = train()
    first = ["begin 1", "step 1 4", "step 2 8", "step 3 10", "end 1"]
    assert diary.lines == [*first, "begin 2", "step 4 14", "step 5 18", "step 6 20", "end 2", "done"]
    assert optimizer.rates == [0, 1, 2, 3, 4, 5]
    assert loader.asked == [(0, 0), (1, 0)]


def test_max_steps_ends_in_the_middle_of_an_epoch() -> None:
    _, _, diary, state = train(max_steps=4)
    assert diary.lines[-3:] == ["begin 2", "step 4 14", "done"]
    assert (state.step, state.epoch, state.last_step) == (4, 2, 4)


def test_it_goes_on_from_any_step() -> None:
    optimizer, loader, diary, _ = train(TrainState(step=4, images=14))
    assert diary.lines == ["begin 2", "step 5 18", "step 6 20", "end 2", "done"]
    assert loader.asked == [(1, 1)]
    assert optimizer.rates == [4, 5]


@pytest.mark.parametrize("parts", [2, 3])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts: int) -> None:
    whole, _, _, whole_state = train()
    cut, _, _, cut_state = train(accumulate=parts)
    assert cut.gradients == pytest.approx(whole.gradients, rel=1e-6)
    assert cut_state.loss == pytest.approx(whole_state.loss, rel=1e-6)


class Broken(Line):
    """Its loss is not a number at the given samples, and a batch norm sees what it sees."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.norm = paddle.nn.BatchNorm1D(1)
        self.model.norm = self.norm
        self.at = at

    def loss(self, views: list[paddle.Tensor], labels: paddle.Tensor) -> tuple[paddle.Tensor, dict[str, Any]]:
        x = views[0] * float("nan") if (views[0] == self.at).any() else views[0]
        return (self.model(self.norm(x)) ** 2).mean(), {}


def test_a_step_that_is_not_finite_is_skipped_and_leaves_no_trace() -> None:
    learner = Broken(at=5.0)  # in the second batch of each epoch
    optimizer, _, diary, state = train(learner=learner)
    assert diary.lines[1:4] == ["step 1 4", "skip 2 1", "step 3 10"]
    assert (state.skipped, state.skipped_in_a_row, state.step, state.loss_count) == (2, 0, 6, 2)
    assert optimizer.rates == [0, 2, 3, 5]
    assert np.isfinite(optimizer.gradients).all()
    assert np.isfinite(learner.norm._mean.numpy()).all()
    without = Broken(at=-1.0)
    for batch in [b for b in Numbers().epoch(0) if 5.0 not in b["views"][0]] * 2:
        without.norm(paddle.to_tensor(batch["views"][0]))
    assert learner.norm._mean.item() == without.norm._mean.item()


class Asking(Callback):
    """Asks for something after a step."""

    def __init__(self, requests: Requests, step: int, **what: bool | str) -> None:
        self.requests, self.step, self.what = requests, step, what
        self.saves: list[int] = []

    def after_step(self, state: TrainState) -> None:
        if state.step == self.step:
            for name, value in self.what.items():
                setattr(self.requests, name, value)
        if state.save:
            self.saves.append(state.step)


def test_a_stop_asked_for_ends_training_after_the_next_step() -> None:
    requests = Requests()
    learner, state = Line(), TrainState()
    stepper = Stepper(learner, Recording(learner.model), World())
    diary = Diary()
    asking = Asking(requests, 2, stop="somebody")
    rates = lambda step: {"main": 0.0}  # noqa: E731
    fit(stepper, Numbers(), rates, epochs=2, state=state, requests=requests, callbacks=[diary, asking])
    assert (state.step, state.stop) == (3, ASKED)
    assert diary.lines[-2:] == ["step 3 10", "done"]  # what ends the epoch is left to the run that goes on
    assert state.epoch_due

    again = TrainState()
    again.restore(state.place())
    _, _, diary, _ = train(again)
    assert diary.lines[:2] == ["end 1", "begin 2"]


def test_a_save_asked_for_comes_once() -> None:
    requests = Requests()
    learner = Line()
    asking = Asking(requests, 2, save=True)
    rates = lambda step: {"main": 0.0}  # noqa: E731
    stepper = Stepper(learner, Recording(learner.model), World())
    fit(stepper, Numbers(), rates, epochs=2, state=TrainState(), requests=requests, callbacks=[asking])
    assert asking.saves == [3]
