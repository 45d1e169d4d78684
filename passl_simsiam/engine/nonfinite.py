"""Steps whose loss or gradients are not finite: reported, counted, and too many in a row end the run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paddle

from passl_simsiam import distributed
from passl_simsiam.distributed import World
from passl_simsiam.engine.loop import Callback, TrainState
from passl_simsiam.errors import TrainingError

if TYPE_CHECKING:
    from passl_simsiam.engine.step import Learner
    from passl_simsiam.log import RunLog


class NonFiniteSteps(Callback):
    """Says which steps were skipped. After `limit` of them in a row the run ends where they began.

    What is saved then is the state before the first of them, so that the run, if it was the machine's fault, goes on as
    if nothing had been; and the samples of the last one's batch, in case it was theirs.

    Args:
        run: the run's folder.
        name: a sample's, by its index.
        save: saves a checkpoint.
    """

    def __init__(
        self,
        limit: int,
        run: Path,
        name: Callable[[int], str],
        save: Callable[[TrainState], None],
        log: RunLog,
        world: World,
    ) -> None:
        self._limit, self._run, self._name, self._save = limit, run, name, save
        self._log, self._world = log, world
        self._good: dict[str, Any] | None = None

    def before_epoch(self, state: TrainState) -> None:
        if not state.skipped_in_a_row:  # in the last epoch's last steps
            self._good = state.place()

    def after_step(self, state: TrainState) -> None:
        self._good = state.place()

    def after_skipped(self, state: TrainState) -> None:
        self._log.warn(
            f"step {state.step} skipped: loss or gradients are not finite "
            f"({state.skipped_in_a_row} in a row, {state.skipped} in all)"
        )
        self._log.record({"step": state.step, "epoch": state.epoch, "train/skipped": state.skipped})
        if state.skipped_in_a_row >= self._limit:
            self._end(state)

    def _end(self, state: TrainState) -> None:
        assert state.indices is not None
        assert self._good is not None
        indices = distributed.gather_rows(state.indices, self._world).tolist()
        file = self._run / f"nonfinite_step_{state.step:08d}.json"
        last, loss = state.step, state.loss
        state.restore(self._good)
        if state.step:
            self._save(state)
        if self._world.is_main:
            samples = [{"index": index, "name": self._name(index)} for index in indices]
            file.write_text(json.dumps({"step": last, "epoch": state.epoch, "batch": samples}, indent=1))
        what = f"the loss is {loss}" if not math.isfinite(loss) else "gradients are not finite"
        raise TrainingError(
            f"{what} at step {last} (epoch {state.epoch}), after {self._limit} such steps in a row: lower the learning "
            f"rate, or look at the samples in {file}; the run stands at step {state.step}"
        )


def inject_non_finite(learner: Learner, state: TrainState, first: int, count: int) -> None:
    """Rehearsal of such a fault: make the loss NaN in `count` steps from step `first` (0-based) on."""
    honest = learner.loss

    def loss(views: list[paddle.Tensor], labels: paddle.Tensor) -> tuple[paddle.Tensor, dict[str, Any]]:
        value, outputs = honest(views, labels)
        return (value * math.nan if first <= state.step < first + count else value), outputs

    learner.loss = loss  # type: ignore[method-assign]
