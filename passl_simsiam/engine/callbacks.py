"""What happens beside training: records and the progress bar, and the line that ends an epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from passl_simsiam.engine.loop import Callback, TrainState

if TYPE_CHECKING:
    from passl_simsiam.data.loader import Loader
    from passl_simsiam.log import Progress, RunLog


class Recorder(Callback):
    """Records loss, rates and speed every so many steps, and moves the progress bar at each.

    Args:
        every: steps from one record to the next; the only ones that wait for the device.
    """

    def __init__(self, log: RunLog, bar: Progress, loader: Loader, every: int, epochs: int) -> None:
        self._log, self._bar, self._loader, self._every, self._epochs = log, bar, loader, every, epochs
        self._note = ""
        self._images = 0

    def before_epoch(self, state: TrainState) -> None:
        self._bar.restart(self._loader.waited)
        self._images = state.images

    def after_step(self, state: TrainState) -> None:
        due = state.step % self._every == 0 or state.step == state.last_step
        if due:
            self._note = f"epoch {state.epoch}/{self._epochs}  loss {state.loss:.4f}"
        self._bar.update(images=state.images - self._images, waited=self._loader.waited, note=self._note)
        self._images = state.images
        if due:
            self._record(state)

    def _record(self, state: TrainState) -> None:
        values = {"step": state.step, "epoch": state.epoch, "train/loss": state.loss, "train/images": state.images}
        values |= rate_metrics(state.rates)
        values |= {"train/images_per_second": self._bar.images_per_second, "train/data_wait": self._bar.data_wait}
        self._log.record(values)

    def after_epoch(self, state: TrainState) -> None:
        if state.loss_count:
            state.metrics["train/epoch_loss"] = state.loss_sum / state.loss_count


def rate_metrics(rates: Mapping[str, float]) -> dict[str, float]:
    """The schedule's rate is the first group's (the backbone's, or a probe's head); the head's is beside it."""
    metrics = {"train/lr": next(iter(rates.values()))}
    if len(rates) > 1 and "head" in rates:
        metrics["train/lr_predictor"] = rates["head"]
    return metrics


class EpochReport(Callback):
    """Records the epoch's metrics and says them in one line; to stand behind the callbacks that find them.

    Args:
        unsaid: metrics that are recorded only.
    """

    def __init__(self, log: RunLog, epochs: int, unsaid: Collection[str] = ()) -> None:
        self._log, self._epochs, self._unsaid = log, epochs, frozenset(unsaid)

    def after_epoch(self, state: TrainState) -> None:
        self._log.record({"step": state.step, "epoch": state.epoch, **state.metrics})
        said = {name: value for name, value in state.metrics.items() if name not in self._unsaid}
        values = "  ".join(f"{name} {value:.4f}" for name, value in said.items())
        self._log.info(f"epoch {state.epoch}/{self._epochs}: step {state.step}, {state.images} images  {values}")
