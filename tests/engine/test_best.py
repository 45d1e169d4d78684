"""The best epoch by a metric that rises or falls, and the end of patience."""

from __future__ import annotations

import pytest

from passl_simsiam.engine.best import Best
from passl_simsiam.engine.loop import TrainState


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


def run(values: list[float | None], *, lowest: bool = False, patience: int | None = None) -> tuple[TrainState, Log]:
    """One value an epoch; None where it was not measured."""
    log, state = Log(), TrainState(last_step=len(values) + 1)
    best = Best(log, "health/rank", lowest=lowest, patience=patience)  # type: ignore[arg-type]
    for epoch, value in enumerate(values, start=1):
        state.epoch = state.step = epoch
        state.metrics = {} if value is None else {"health/rank": value}
        best.after_epoch(state)
        if state.stop:
            break
    return state, log


@pytest.mark.parametrize(("lowest", "best"), [(False, (9.0, 2)), (True, (1.0, 4))])
def test_the_first_epoch_with_the_best_value(lowest: bool, best: tuple[float, int]) -> None:
    state, _ = run([5.0, 9.0, None, 1.0, 9.0, float("nan"), 1.0], lowest=lowest)
    assert (state.best, state.best_epoch) == best
    assert state.stop is None


def test_patience_ends_training_after_so_many_epochs_without_a_better_value() -> None:
    state, log = run([1.0, 3.0, 2.0, None, 3.0, 9.0], patience=3)
    assert state.epoch == 5
    assert state.stop == "no better health/rank than 3.0000 of epoch 2 in 3 epochs"
    assert log.lines == [f"training ends early: {state.stop}"]


def test_patience_waits_for_the_first_value() -> None:
    assert run([None] * 5 + [1.0], patience=2)[0].stop is None
