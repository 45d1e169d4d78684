"""The loss scaler's rule, and that scaled gradients are the same ones. Autocast itself needs a GPU."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl_simsiam.distributed import World
from passl_simsiam.engine.precision import LossScaler, autocast
from passl_simsiam.engine.step import Requests, Stepper


def test_the_scale_halves_at_overflows_and_doubles_after_good_steps() -> None:
    scaler = LossScaler(scale=8.0, patience=3)
    scales = []
    for finite in (True, True, True, False, True, True, False, True, True, True):
        scaler.update(finite)
        scales.append(scaler.scale)
    assert scales == [8, 8, 16, 8, 8, 8, 4, 4, 4, 8]


def test_the_scale_never_falls_below_one() -> None:
    scaler = LossScaler(scale=2.0)
    for _ in range(5):
        scaler.update(False)
    assert scaler.scale == 1


def test_its_state_goes_on() -> None:
    scaler, other = LossScaler(scale=8.0, patience=3), LossScaler(scale=1.0, patience=3)
    scaler.update(True)
    scaler.update(True)
    other.load_state_dict(scaler.state_dict())
    other.update(True)
    assert other.scale == 16


class Square:
    def __init__(self) -> None:
        self.model = paddle.nn.Linear(1, 1)
        self.model.weight.set_value(paddle.full([1, 1], 3.0))

    def train(self) -> None: ...

    def loss(self, views: list[paddle.Tensor], labels: paddle.Tensor) -> tuple[paddle.Tensor, dict]:
        return (self.model(views[0]) ** 2).mean(), {}


class Watching:
    """Keeps the gradients that it is given."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.parameters = dict(model.named_parameters())
        self.seen: list[float] = []

    def step(self, rates: dict) -> None:
        self.seen.append(self.parameters["weight"].grad.item())

    def clear_grad(self) -> None:
        for p in self.parameters.values():
            p.clear_gradient(False)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_scaled_back_before_the_update(accumulate: int) -> None:
    batch = {"views": [np.ones((4, 1), np.float32)], "label": np.zeros(4, np.int64), "index": np.arange(4)}
    seen = []
    for scaler in (None, LossScaler(2.0**12)):
        learner = Square()
        optimizer = Watching(learner.model)
        stepper = Stepper(learner, optimizer, World(), accumulate=accumulate, scaler=scaler)
        outcome = stepper.step(batch, {}, Requests(), lambda outcome: None)
        assert outcome.loss == pytest.approx(9.0)
        seen += optimizer.seen
    assert seen[0] == seen[1] == pytest.approx(6.0)


def test_an_overflow_is_skipped_and_halves_the_scale() -> None:
    batch = {"views": [np.full((4, 1), 1e10, np.float32)], "label": np.zeros(4, np.int64), "index": np.arange(4)}
    learner, scaler = Square(), LossScaler(2.0**70)
    optimizer = Watching(learner.model)
    outcome = Stepper(learner, optimizer, World(), scaler=scaler).step(batch, {}, Requests(), lambda outcome: None)
    assert (outcome.finite, optimizer.seen, scaler.scale) == (False, [], 2.0**69)


def test_outputs_under_autocast_are_float32() -> None:
    def forward(x: paddle.Tensor) -> dict:
        return {"z": [x.astype("bfloat16"), x], "n": x.astype("int64")}

    outputs = autocast(forward, "O1", "bfloat16")(paddle.ones([2]))
    assert [z.dtype for z in outputs["z"]] == [paddle.float32, paddle.float32]
    assert outputs["n"].dtype == paddle.int64
