"""What happens beside training: records and the progress bar, the epoch's line, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paddle

from passl_simsiam import distributed
from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.random_state import random_state
from passl_simsiam.distributed import World
from passl_simsiam.engine.loop import Callback, TrainState
from passl_simsiam.errors import TrainingError

if TYPE_CHECKING:
    from passl_simsiam.data.loader import Loader
    from passl_simsiam.log import Progress, RunLog


class Recorder(Callback):
    """Records loss, rates and speed every so many steps, and moves the progress bar at each.

    Args:
        every: steps from one record to the next; the only ones that wait for the device.
    """

    def __init__(self, log: RunLog, bar: Progress, loader: Loader, every: int, epochs: int, world: World) -> None:
        self._log, self._bar, self._loader, self._every, self._epochs = log, bar, loader, every, epochs
        self._world = world
        self._note = ""
        self._images = 0
        self._loss_sum: paddle.Tensor | None = None
        self._loss_count = 0

    def before_epoch(self, state: TrainState) -> None:
        self._bar.restart(self._loader.waited)
        self._images = state.images
        self._loss_sum, self._loss_count = None, 0

    def after_step(self, state: TrainState) -> None:
        assert state.loss is not None
        self._loss_sum = state.loss if self._loss_sum is None else self._loss_sum + state.loss
        self._loss_count += 1
        loss = None
        if state.step % self._every == 0 or state.step == state.last_step:
            loss = distributed.mean(state.loss.item(), self._world)
            self._note = f"epoch {state.epoch}/{self._epochs}  loss {loss:.4f}"
        self._bar.update(images=state.images - self._images, waited=self._loader.waited, note=self._note)
        self._images = state.images
        if loss is not None:
            self._record(state, loss)

    def _record(self, state: TrainState, loss: float) -> None:
        values = {"step": state.step, "epoch": state.epoch, "train/loss": loss, "train/images": state.images}
        values |= rate_metrics(state.rates)
        values |= {"train/images_per_second": self._bar.images_per_second, "train/data_wait": self._bar.data_wait}
        self._log.record(values)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {state.step} (epoch {state.epoch}): lower the learning rate"
            )

    def after_epoch(self, state: TrainState) -> None:
        assert self._loss_sum is not None
        state.metrics["train/epoch_loss"] = distributed.mean(self._loss_sum.item() / self._loss_count, self._world)


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


class Saver(Callback):
    """Saves checkpoints and keeps `latest`, `best` and the last few.

    Args:
        run: the run's folder.
        contents: returns the tensors to save, as keyword arguments `model` and `optimizer` of `checkpoint.io.save`.
        every: epochs from one checkpoint to the next; the last epoch is always saved.
        keep: how many to keep beside the best.
        best_by: the metric, larger is better, that chooses `best`.
        config: the resolved recipe, kept inside.
        data: what the network expects of its images, kept inside: "in_channels", "mean", "std", "classes".
    """

    def __init__(
        self,
        run: Path,
        contents: Callable[[], dict[str, Mapping[str, Any]]],
        *,
        every: int,
        keep: int,
        best_by: str,
        config: Mapping[str, Any],
        data: Mapping[str, Any],
    ) -> None:
        self._run, self._contents = run, contents
        self._every, self._keep, self._best_by, self._config = every, keep, best_by, config
        self._data = data
        self._saved_step = -1

    def after_epoch(self, state: TrainState) -> None:
        value = state.metrics.get(self._best_by)
        is_best = value is not None and (state.best is None or value > state.best)
        if is_best:
            state.best = value
        if is_best or state.epoch % self._every == 0 or state.step == state.last_step:
            self._save(f"epoch_{state.epoch:04d}", state, is_best)

    def after_training(self, state: TrainState) -> None:
        if state.step != self._saved_step and state.step > 0:
            self._save(f"step_{state.step:08d}", state, is_best=False)

    def _save(self, name: str, state: TrainState, is_best: bool) -> None:
        io.save(self._run, name, **self._contents(), state=self._state(state))
        self._saved_step = state.step
        if is_best:
            io.mark_best(self._run, name)
        io.keep_last(self._run, self._keep)

    def _state(self, state: TrainState) -> dict[str, Any]:
        return {
            "step": state.step,
            "epoch": state.epoch,
            "images": state.images,
            "metrics": state.metrics,
            "best": state.best,
            "best_by": self._best_by,
            "random": random_state(),
            "config": self._config,
            "data": self._data,
        }


def restore(state: TrainState, saved: Mapping[str, Any]) -> None:
    """Put `state` where a checkpoint's was."""
    state.step, state.epoch, state.images = saved["step"], saved["epoch"], saved["images"]
    state.metrics, state.best = dict(saved["metrics"]), saved["best"]
