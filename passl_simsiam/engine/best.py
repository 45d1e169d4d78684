"""Which epoch is the best so far, and when waiting for a better one is over."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from passl_simsiam.engine.loop import Callback, TrainState

if TYPE_CHECKING:
    from passl_simsiam.log import RunLog


class Best(Callback):
    """Keeps the best value of one metric and its epoch; to stand behind what finds the metric, before the Saver.

    Args:
        metric: its name in `TrainState.metrics`; epochs without it are passed over.
        lowest: whether lower is better.
        patience: epochs without a better value after which training ends; None: it never does.
    """

    def __init__(self, log: RunLog, metric: str, *, lowest: bool, patience: int | None) -> None:
        self._log, self._metric, self._lowest, self._patience = log, metric, lowest, patience

    def after_epoch(self, state: TrainState) -> None:
        value = state.metrics.get(self._metric)
        if value is not None and math.isfinite(value) and self._is_better(value, state.best):
            state.best, state.best_epoch = value, state.epoch
        waited = state.epoch - state.best_epoch
        if self._patience and state.best is not None and waited >= self._patience and state.step < state.last_step:
            state.stop = (
                f"no better {self._metric} than {state.best:.4f} of epoch {state.best_epoch} in {waited} epochs"
            )
            self._log.info(f"training ends early: {state.stop}")

    def _is_better(self, value: float, best: float | None) -> bool:
        return best is None or (value < best if self._lowest else value > best)
