"""The loop's promises: which rates it sets, what it counts, and that accumulation changes no gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from passl_simsiam.engine.loop import Callback, TrainState, fit


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

    def after_epoch(self, state: TrainState) -> None:
        self.lines.append(f"end {state.epoch}")

    def after_training(self, state: TrainState) -> None:
        self.lines.append("done")


def train(state: TrainState | None = None, **options: Any) -> tuple[Recording, Numbers, Diary, TrainState]:
    learner, loader, diary, state = Line(), Numbers(), Diary(), state or TrainState()
    optimizer = Recording(learner.model)
    rates = lambda step: {"main": float(step)}  # noqa: E731
    fit(learner, loader, optimizer, rates, epochs=2, state=state, callbacks=[diary], **options)
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
    assert cut_state.loss is not None
    assert whole_state.loss is not None
    assert cut_state.loss.item() == pytest.approx(whole_state.loss.item(), rel=1e-6)
