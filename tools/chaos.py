"""Rehearse what machines do to a run: hurt it at random moments, start it again, compare its end with a run in peace.

    python tools/chaos.py --rounds 100 --processes 1 --seed 0

A small digits run with data workers, kNN and frequent checkpoints is started, hurt once by a fault drawn at random, and
started again by the same command until it ends well; then the next run follows. After every fault the latest checkpoint
is verified, and every finished run must have, bit for bit, the weights, velocities and random states of the run in
peace. The table gives each kind of fault, how the job ended, and how soon. Needs Linux, and root for the full disk (a
small tmpfs).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults import FAULTS, ROOT, Fault, Job, full_disk
from rich.console import Console
from rich.table import Table

from passl_simsiam.checkpoint import io

EPOCHS, STEPS_PER_EPOCH = {1: 4, 2: 2}, 22  # epochs by processes: two on few cores take their time
RECIPE = [
    "-c",
    str(ROOT / "configs/simsiam_r18_pt_digits.yaml"),
    "-o",
    "Global.device=cpu",
    "Global.threads=1",
    "Global.checkpoint=auto",
    "Global.save_every_steps=7",
    "Global.save_every_epochs=1",
    "Global.print_batch_step=5",
    "Global.max_skipped_steps=3",
    "Global.hang_timeout=20",
    "Model.backbone.width=4",
    "Model.neck.hidden_channels=32",
    "Model.neck.out_channels=32",
    "DataLoader.Train.loader={num_workers: 2, timeout: 3}",
    "Evaluation.knn.every_epochs=1",
    "Evaluation.few_label=null",
    "Evaluation.baselines=false",
    "Evaluation.pictures=false",
]
#: A job that a fault has hurt counts as hung after so many times the duration of the run in peace, and a minute.
HANG = 5


@dataclass
class Tally:
    """What came of one kind of fault."""

    struck: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    runs_equal: int = 0
    broken: int = 0


class Rehearsal:
    """Run after run, fault after fault."""

    def __init__(self, disk: Path, logs: Path, processes: int, seed: int, only: str | None) -> None:
        self.disk, self.logs, self.processes = disk, logs, processes
        self.epochs = EPOCHS[processes]
        self.rng = random.Random(seed)
        self.faults = [f for f in FAULTS if processes in f.processes and (only is None or only in f.name)]
        self.tallies: dict[str, Tally] = defaultdict(Tally)
        self.runs = 0
        self.duration, began = 3600.0, time.monotonic()
        assert self._attempt(disk / "peace", None) == 0, f"the run in peace failed: see {logs}"
        self.duration = time.monotonic() - began
        self.peace = fingerprint(disk / "peace")
        shutil.rmtree(disk / "peace")

    def run(self, rounds: int, say: Callable[[str], None]) -> None:
        done, order = 0, []
        while done < rounds:
            self.runs += 1
            folder, suffered = self.disk / f"run{self.runs:03d}", []
            code = None
            while code != 0:
                order = order or self.rng.sample(self.faults, len(self.faults))
                fault = order[-1] if done < rounds else None
                code = self._attempt(folder, fault)
                if fault is not None and self._struck:
                    order.pop()
                    done += 1
                    suffered.append(fault.name)
                    say(f"{done}/{rounds} {fault.name}: exit {code} after {self._took:.1f} s")
                elif code != 0:
                    raise SystemExit(f"run {self.runs} ended with {code} though nothing hurt it: see {self.logs}")
            equal = fingerprint(folder) == self.peace
            say(f"run {self.runs}: {'equal' if equal else 'DIFFERENT'} after {len(suffered)} faults")
            for name in suffered:
                self.tallies[name].runs_equal += equal
            if equal:
                shutil.rmtree(folder)

    def _attempt(self, folder: Path, fault: Fault | None) -> int:
        """Start the run and hurt it; the exit code. Raises SystemExit when it hangs."""
        overrides = []
        if fault is not None and fault.strike is None:
            left = range(reached(folder), self.epochs * STEPS_PER_EPOCH - 3)
            if left:
                overrides = [f"Faults={{nonfinite_step: {self.rng.choice(left)}, nonfinite_count: 3}}"]
        log, began = self.logs / f"{folder.name}.log", time.monotonic()
        job = Job([*RECIPE, f"Global.epochs={self.epochs}", *overrides], folder, self.processes, log)
        self._struck, struck_at = bool(overrides), time.monotonic()
        try:
            if fault is not None and fault.strike is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.process.wait(self.rng.uniform(0, 0.9 * self.duration))
                self._struck, struck_at = fault.strike(job, self.rng), time.monotonic()
            code = job.process.wait(60 + HANG * self.duration)
        except subprocess.TimeoutExpired:
            job.end()
            raise SystemExit(f"HUNG: {fault.name if fault else 'in peace'}, see {log}") from None
        finally:
            job.end()
        self._took = time.monotonic() - struck_at
        if code == 0 and not self._struck and fault is not None:
            self.duration = min(self.duration, time.monotonic() - began)  # it came too late: aim earlier
        if fault is not None and self._struck:
            tally = self.tallies[fault.name]
            tally.struck += 1
            tally.codes[str(code)] += 1
            tally.slowest = max(tally.slowest, self._took)
            tally.broken += not loads(folder)
        return code


def reached(folder: Path) -> int:
    """The step that the run goes on from."""
    return int(io.load(io.find(folder)).state["step"]) if io.exists(folder) else 0


def loads(folder: Path) -> bool:
    """Whether `latest` is what it should be after any end: there and whole, or not there yet."""
    latest = io.pointed(folder / io.FOLDER, "latest")
    try:
        if latest is not None:
            io.verify(latest)
        return latest is not None or not io.exists(folder)
    except io.CheckpointError:
        return False


def fingerprint(folder: Path) -> str:
    """A hash of the weights, velocities, random states and place of the last checkpoint."""
    saved = io.load(io.find(folder))
    sha = hashlib.sha256()
    for tensors in (saved.model, saved.optimizer):
        for name in sorted(tensors):
            sha.update(name.encode() + tensors[name].tobytes())
    place = {key: saved.state[key] for key in ("step", "epoch", "images", "loss_sum", "best", "random")}
    sha.update(json.dumps(place, sort_keys=True).encode())
    return sha.hexdigest()


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[tuple[Path, bool]]:
    """A folder on a disk of its own, and whether it is one; without root it is a plain folder."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
        small = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        try:
            yield Path(folder), small
        finally:
            if small:
                subprocess.run(["umount", "-l", folder], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="faults")
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="only faults whose name holds this")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with small_disk(24) as (disk, small):
        if not small:
            FAULTS[:] = [fault for fault in FAULTS if fault.strike is not full_disk]
            console.print("no small disk could be mounted (not root?): the full disk is left out")
        logs = Path(tempfile.mkdtemp(prefix="chaos-logs-"))
        console.print(f"logs: {logs}")
        rehearsal = Rehearsal(disk, logs, arguments.processes, arguments.seed, arguments.only)
        console.print(f"the run in peace took {rehearsal.duration:.1f} s")
        rehearsal.run(arguments.rounds, console.print)
    table = Table(title=f"{arguments.rounds} faults, {arguments.processes} process(es), {rehearsal.runs} runs")
    for column in ("fault", "times", "exit codes", "slowest end (s)", "latest damaged", "final weights equal"):
        table.add_column(column)
    for name, tally in rehearsal.tallies.items():
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(tally.codes.items()))
        equal = f"{tally.runs_equal} of {tally.struck}"
        table.add_row(name, str(tally.struck), codes, f"{tally.slowest:.1f}", str(tally.broken), equal)
    console.print(table)
    good = all(tally.runs_equal == tally.struck and not tally.broken for tally in rehearsal.tallies.values())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
