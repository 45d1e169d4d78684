"""Faults that `chaos.py` does to a job, and the job that they are done to."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from passl_simsiam.checkpoint import io

ROOT = Path(__file__).parents[1]


class Job:
    """One start of the run: its command, and the processes that it has."""

    def __init__(self, recipe: list[str], folder: Path, processes: int, log: Path) -> None:
        command = [sys.executable, str(ROOT / "tools/train.py"), *recipe, f"Global.output_dir={folder}"]
        command += ["--nproc", str(processes)] if processes > 1 else []
        self.folder, self._processes = folder, processes
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=ROOT)

    def ranks(self) -> list[psutil.Process]:
        """The training processes, in the order of their ranks; fewer while the job starts or ends."""
        if self._processes == 1:
            return [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        found = {}
        for process in self._descendants():
            with contextlib.suppress(psutil.Error):
                rank = process.environ().get("PADDLE_TRAINER_ID")
                if rank is not None and not is_worker(process) and "watchdog" not in " ".join(process.cmdline()):
                    found[int(rank)] = process
        return [found[rank] for rank in sorted(found)]

    def workers(self) -> list[psutil.Process]:
        return [process for process in self._descendants() if is_worker(process)]

    def _descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def end(self) -> None:
        """Leave no process behind."""
        for process in [*self._descendants(), self.process]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
        self.process.wait()


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "passl_simsiam.data.worker" in " ".join(process.cmdline())
    return False


Strike = Callable[[Job, random.Random], bool]


def to_rank(number: int | None, *signals: signal.Signals) -> Strike:
    """Signals to one rank, to any if `number` is None."""

    def strike(job: Job, rng: random.Random) -> bool:
        ranks = job.ranks()
        chosen = rng.choice(ranks) if ranks and number is None else (ranks[number:] or [None])[0]
        return chosen is not None and all(send(chosen, s) for s in signals)

    return strike


def to_all(job: Job, rng: random.Random) -> bool:
    ranks = job.ranks()
    for process in [*ranks, *job.workers()]:
        send(process, signal.SIGKILL)
    return bool(ranks)


def to_command(number: signal.Signals) -> Strike:
    """A signal to the command itself, as a scheduler or Ctrl-C sends it."""
    return lambda job, rng: job.process.poll() is None and send(psutil.Process(job.process.pid), number)


def to_worker(number: signal.Signals) -> Strike:
    """A signal to any data worker, some time after there are any: they live for a part of a run only."""

    def strike(job: Job, rng: random.Random) -> bool:
        while job.process.poll() is None:
            if job.workers():
                time.sleep(rng.uniform(0, 2))
                workers = job.workers()
                return bool(workers) and send(rng.choice(workers), number)
            time.sleep(0.05)
        return False

    return strike


def during_save(job: Job, rng: random.Random) -> bool:
    """SIGKILL to the main rank while a checkpoint is being written."""
    wait = rng.uniform(0, 0.01)
    while job.process.poll() is None:
        if any((job.folder / io.FOLDER).glob(f"{io.UNFINISHED}*")):
            time.sleep(wait)
            return to_rank(0, signal.SIGKILL)(job, rng)
        time.sleep(0.0005)
    return False


def full_disk(job: Job, rng: random.Random) -> bool:
    """Fill the disk for some seconds."""
    ballast = job.folder.parent / "ballast"
    if job.process.poll() is not None:
        return False
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(2**16)):
            pass
    time.sleep(rng.uniform(0.5, 4))
    ballast.unlink()
    return True


def send(process: psutil.Process, number: signal.Signals) -> bool:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)
        return True
    return False


@dataclass(frozen=True)
class Fault:
    name: str
    strike: Strike | None  # None: a NaN, by the recipe
    processes: tuple[int, ...] = (1, 2)


FAULTS = [
    Fault("SIGKILL to one process", to_rank(None, signal.SIGKILL)),
    Fault("SIGKILL to all", to_all),
    Fault("SIGKILL during a save", during_save),
    Fault("SIGTERM to the command", to_command(signal.SIGTERM)),
    Fault("SIGINT to the command", to_command(signal.SIGINT)),
    Fault("SIGTERM to one rank", to_rank(None, signal.SIGTERM), (2,)),
    Fault("SIGSTOP to one rank", to_rank(None, signal.SIGSTOP), (2,)),
    Fault("SIGKILL to a data worker", to_worker(signal.SIGKILL)),
    Fault("SIGSTOP to a data worker", to_worker(signal.SIGSTOP)),
    Fault("full disk", full_disk),
    Fault("NaN", None),
]
