"""When checkpoints are saved: by epochs, steps and minutes, at the end, and when asked to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from passl_simsiam import distributed
from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.random_state import random_state
from passl_simsiam.distributed import World
from passl_simsiam.engine.loop import Callback, TrainState
from passl_simsiam.engine.step import Requests
from passl_simsiam.errors import TrainingError

if TYPE_CHECKING:
    from passl_simsiam.log import RunLog


class Saver(Callback):
    """Saves checkpoints and keeps `latest`, `best` and the last few. To stand behind all other callbacks.

    Only the main rank writes; the others have this callback too, for what they have to agree on.

    Args:
        run: the run's folder.
        contents: returns the tensors to save, as keyword arguments `model` and `optimizer` of `checkpoint.io.save`.
        about: what else `state.json` holds; called at each save.
        requests: where a save by the clock is asked for, so that all ranks make it after the same step.
        every_epochs, every_steps, every_minutes: from one checkpoint to the next; the last step is always saved.
        keep: how many to keep beside the best.
        best_by: the metric that chooses `best`, for `state.json`; the callback Best does the choosing.
        on_error: what a save that fails (a full disk) does: "warn" goes on with the checkpoints that there are, "stop"
            ends the run.
    """

    def __init__(
        self,
        run: Path,
        contents: Callable[[], dict[str, Mapping[str, Any]]],
        about: Callable[[], dict[str, Any]],
        log: RunLog,
        world: World,
        requests: Requests,
        *,
        every_epochs: int,
        every_steps: int | None,
        every_minutes: float | None,
        keep: int,
        best_by: str | None,
        on_error: Literal["warn", "stop"],
    ) -> None:
        self._run, self._contents, self._about = run, contents, about
        self._log, self._world, self._requests = log, world, requests
        self._epochs, self._steps = every_epochs, every_steps
        self._seconds = None if every_minutes is None else 60 * every_minutes
        self._keep, self._best_by, self._on_error = keep, best_by, on_error
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._failure: io.CheckpointError | None = None

    def after_step(self, state: TrainState) -> None:
        self._ask_by_clock()
        if state.save or (self._steps and state.step % self._steps == 0):
            self.save(state)

    def after_skipped(self, state: TrainState) -> None:
        self._ask_by_clock()

    def after_epoch(self, state: TrainState) -> None:
        is_best = state.best_epoch == state.epoch
        if is_best or state.epoch % self._epochs == 0 or state.step == state.last_step:
            state.epoch_due = False  # nothing but this callback is left of the epoch
            self._write(f"epoch_{state.epoch:04d}", state, is_best)

    def after_training(self, state: TrainState) -> None:
        """Save where training ended. Raises TrainingError when that, its result, cannot be saved."""
        with distributed.main_only(self._world, "saving where training ended") as is_main:
            if is_main and state.step != self._saved_step and state.step > 0:  # only the main rank knows what it saved
                self._write_here(_name(state), state, is_best=False)
        if self._failure is not None:
            raise TrainingError(f"what was trained last is not saved: {self._failure}")

    def save(self, state: TrainState) -> None:
        """Save now, in the middle of an epoch or at its end."""
        self._write(_name(state), state, is_best=False)

    def save_alone(self, state: TrainState) -> None:
        """The same where other ranks may be gone already: nobody waits for anybody."""
        if self._world.is_main:
            self._write_here(_name(state), state, is_best=False)

    def _ask_by_clock(self) -> None:
        if self._world.is_main and self._seconds and time.monotonic() - self._saved_at >= self._seconds:
            self._requests.save = True

    def _write(self, name: str, state: TrainState, is_best: bool) -> None:
        with distributed.main_only(self._world, f"saving checkpoint {name}") as is_main:
            if is_main:
                self._write_here(name, state, is_best)
        self._saved_at = time.monotonic()

    def _write_here(self, name: str, state: TrainState, is_best: bool) -> None:
        try:
            io.save(self._run, name, **self._contents(), state=self._state(state))
            if is_best:
                io.mark_best(self._run, name)
            io.keep_last(self._run, self._keep)
        except io.CheckpointError as error:
            self._failure = error
            self._log.warn(f"NOT SAVED: {error}")
            if self._on_error == "stop":
                self._requests.stop = "a save that failed"
        else:
            self._failure = None
            self._saved_step = state.step

    def _state(self, state: TrainState) -> dict[str, Any]:
        return {**state.place(), "best_by": self._best_by, "random": random_state(), **self._about()}


def _name(state: TrainState) -> str:
    return f"step_{state.step:08d}"
