"""What the health callback costs, as a share of training without it: its own clock beside that of the steps.

    python tools/bench/health.py -c configs/simsiam_r18_pt_digits.yaml --steps 132
    python tools/bench/health.py -c configs/simsiam_r18_pt_cifar10.yaml --steps 40 -o Model.backbone.width=16 ...

Trains the recipe with the callback beside it, in a folder that is thrown away. A report costs the same however many
steps lie between two, and so does a step without one; from the medians of both follows the share at any interval.
Seconds are those of processor time on one thread, which other programs do not take away.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from passl_simsiam.commands.common import prepare
from passl_simsiam.config import load_config

INTERVALS = (10, 20, 50, 100)
WARM_UP = 5  # steps left out: the first ones set up kernels and memory


def measure(recipe: str, overrides: list[str], steps: int, every: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each step without the callback, of its part in steps that report, and in those that do not."""
    config = load_config(recipe, [*overrides, "Global.threads=1", f"Health.every={every}"])
    environment = prepare(config)
    from passl_simsiam.engine.loop import Callback, TrainState, fit
    from passl_simsiam.tasks import pretrain
    from passl_simsiam.tasks.session import open_session

    step_seconds: list[float] = []
    reporting: list[float] = []
    plain: list[float] = []

    class Timed(Callback):
        """The callback, its calls timed; a step lasts from one end of `after_step` to the next."""

        def __init__(self, health: Callback, steps_per_epoch: int) -> None:
            self._health, self._steps_per_epoch = health, steps_per_epoch
            self._own, self._last = 0.0, time.process_time()

        @contextmanager
        def _clock(self) -> Iterator[None]:
            began = time.process_time()
            yield
            self._own += time.process_time() - began

        def before_update(self, state: TrainState) -> None:
            with self._clock():
                self._health.before_update(state)

        def after_step(self, state: TrainState) -> None:
            with self._clock():
                self._health.after_step(state)
            now = time.process_time()
            if state.step > WARM_UP:
                in_epoch = (state.step - 1) % self._steps_per_epoch + 1
                reports = in_epoch % every == 0 or in_epoch == self._steps_per_epoch or state.step == state.last_step
                (reporting if reports else plain).append(self._own)
                step_seconds.append(now - self._last - self._own)
            self._own, self._last = 0.0, now

    with open_session(config, environment, writes=True) as session:
        training = pretrain.prepare(session).training
        health = pretrain.open_health(session, training, pretrain.open_guard(session, training))
        with training.data.loader as loader:
            fit(
                training.stepper,
                loader,
                training.rates,
                epochs=config.Global.epochs,
                state=TrainState(),
                max_steps=steps,
                callbacks=[Timed(health, len(loader))],
            )
    return step_seconds, reporting, plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("-o", "--override", nargs="+", action="extend", default=[])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=5, help="steps from one report to the next while measuring")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*arguments.override, f"Global.output_dir={folder}"]
        measured = measure(arguments.config, overrides, arguments.steps, arguments.every)
    step, report, plain = map(statistics.median, measured)
    print(f"a step without it {1e3 * step:.2f} ms; a report {1e3 * report:.2f} ms, any other step {1e3 * plain:.3f} ms")
    print("| steps between reports | share of training |\n|---:|---:|")
    for every in INTERVALS:
        print(f"| {every} | {(report + (every - 1) * plain) / (every * step):.2%} |")


if __name__ == "__main__":
    main()
