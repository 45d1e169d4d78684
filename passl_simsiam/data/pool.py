"""Data workers that are watched: one that dies, is killed or hangs is named, replaced, and its work given out again.

The trainer knows at any time which worker holds which chunks, and a worker leaves a trace of the sample that it is at.
So a fault names that sample, and nothing waits for ever. Views depend on their key alone, so the chunk that another
worker makes again is bitwise the same.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import time
from collections import Counter, deque
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passl_simsiam.data.bad import BadSample, BadSamples
from passl_simsiam.data.sampler import Indices
from passl_simsiam.data.samples import SampleMaker
from passl_simsiam.data.shared import SharedMemory, SharedPickle
from passl_simsiam.data.worker import Chunk, Done, Failed, Layout, launch
from passl_simsiam.errors import TrainingError, UserError

log = logging.getLogger(__name__)

#: Chunks that a worker holds: the one it makes, and the next, so that it never waits for the trainer.
HELD = 2
#: A sample under which so many workers died or hung is left out: it crashes the decoder, or its disk does not answer.
DEADLY = 2
HOUR = 3600.0
#: Seconds that a worker may take to start, whatever the timeout: Python and OpenCV may come from a cold network disk.
START = 60.0


class LoaderError(TrainingError):
    """The data workers cannot go on: too many of them died or hung, or their program is wrong."""


class Worker:
    """One worker as the trainer sees it."""

    def __init__(
        self, number: int, process: subprocess.Popen[bytes], pipe: Connection, progress: NDArray[np.int64], clock: float
    ) -> None:
        self.number = number
        self.process = process
        self.pipe = pipe
        self.held: deque[Chunk] = deque()
        self.alive_at = clock
        self.ready = False
        self._progress = progress
        progress[:] = 0, -1
        self._begun = 0

    @property
    def sample(self) -> int | None:
        """The sample that it is at, or was at when it died."""
        return int(self._progress[1]) if self._progress[1] >= 0 else None

    def silence(self, clock: float) -> float:
        """Seconds since the last sign that it is at work; 0 for one that has nothing to do."""
        begun = int(self._progress[0])
        if begun != self._begun or not self.held:
            self._begun, self.alive_at = begun, clock
        return clock - self.alive_at

    def give(self, chunk: Chunk, excluded: frozenset[int]) -> None:
        self.held.append(chunk)
        with contextlib.suppress(OSError):  # it is dead: the end of its pipe will tell, and give out what it holds
            self.pipe.send((chunk, excluded))

    def end(self) -> None:
        """Kill it, whatever state it is in: it has nothing to save. One stuck in the kernel is not waited for."""
        self.process.kill()
        self.pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)


class Pool:
    """The workers of one loader.

    Args:
        maker: makes the samples, in each worker a copy.
        layout: of the memory that they share with the trainer; says how many workers there are.
        timeout: so many seconds at one sample, while the trainer waits, and a worker counts as hung.
        max_restarts: so many workers may be replaced within an hour.
        bad: where bad samples are noted.

    Attributes:
        batches: by slot, an array of each view in the shared memory.
    """

    def __init__(
        self,
        maker: SampleMaker,
        layout: Layout,
        *,
        timeout: float,
        max_restarts: int,
        bad: BadSamples,
    ) -> None:
        self.layout = layout
        self._name, self._bad = maker.dataset.name, bad
        self._timeout, self._max_restarts = timeout, max_restarts
        self._pickled, self._memory = SharedPickle(maker), SharedMemory(layout.size)
        self.batches = [layout.batch(self._memory.map, slot) for slot in range(layout.slots)]
        # Runs only while the trainer waits, in short steps: neither a long evaluation nor a paused container, after
        # which all the workers look silent, counts against them.
        self._clock = 0.0
        self._tick = min(1.0, timeout / 4)
        self._queue: deque[Chunk] = deque()
        self._restarts: deque[float] = deque()
        self._strikes: Counter[int] = Counter()
        self._excluded: frozenset[int] = frozenset()
        self.workers = [self._launch(number) for number in range(layout.workers)]

    def _launch(self, number: int) -> Worker:
        process, pipe = launch(self._pickled, self._memory.fd, self.layout, number)
        return Worker(number, process, pipe, self.layout.progress(self._memory.map, number), self._clock)

    def submit(self, chunk: Chunk) -> None:
        """Queue a chunk: they are begun in this order."""
        self._queue.append(chunk)
        self._feed()

    def collect(self) -> list[tuple[Chunk, Indices]]:
        """Wait for finished chunks, at least one: each with the samples that its rows hold.

        Raises:
            LoaderError: when too many workers had to be replaced, or their program is wrong.
            UserError: when a worker found a mistake of the recipe.
        """
        finished: list[tuple[Chunk, Indices]] = []
        while not finished:
            pipes = {worker.pipe: worker for worker in self.workers}
            before = time.monotonic()
            ready = wait(list(pipes), self._tick)
            self._clock += min(time.monotonic() - before, 2 * self._tick)
            for pipe in ready:
                self._receive(pipes[pipe], finished)  # type: ignore[index]
            for worker in self.workers:
                limit = self._timeout if worker.ready else max(self._timeout, START)
                if worker.silence(self._clock) > limit:
                    self._replace(worker, f"made no progress for {limit:g} s{_state(worker.process.pid)}")
            self._feed()
        return finished

    def abandon(self) -> None:
        """Forget what is queued, and let the workers finish what they hold."""
        self._queue.clear()
        while any(worker.held for worker in self.workers):
            self.collect()

    def end(self) -> None:
        """Kill the workers and give the memory back, once the last array in it is gone."""
        for worker in self.workers:
            worker.end()
        self._memory.close()
        self._pickled.close()

    def _feed(self) -> None:
        while self._queue:
            worker = min(self.workers, key=lambda worker: len(worker.held))
            if len(worker.held) >= HELD:
                return
            worker.give(self._queue.popleft(), self._excluded)

    def _receive(self, worker: Worker, finished: list[tuple[Chunk, Indices]]) -> None:
        try:
            while worker.pipe.poll():
                message: Done | Failed | None = worker.pipe.recv()
                worker.alive_at, worker.ready = self._clock, True
                if isinstance(message, Failed):
                    raise UserError(message.text) if message.user else LoaderError(message.text)
                if isinstance(message, Done):
                    finished.append((worker.held.popleft(), message.used))
                    for sample in message.bad:
                        self._bad.add(sample)
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(1)  # for its exit code
            self._replace(worker, _exit(worker.process.returncode))

    def _replace(self, worker: Worker, cause: str) -> None:
        """Start another worker in place of one that is dead or hung, and queue what it held."""
        worker.end()
        what = f"data worker {worker.number} (pid {worker.process.pid}) {cause}{self._place(worker)}"
        now = time.monotonic()
        self._restarts.append(now)
        while self._restarts[0] < now - HOUR:
            self._restarts.popleft()
        if len(self._restarts) > self._max_restarts:
            raise LoaderError(f"{what}; more than {self._max_restarts} workers were lost within an hour")
        log.warning("%s; starting another (%d of %d an hour)", what, len(self._restarts), self._max_restarts)
        self._strike(worker.sample, cause)
        self._queue.extendleft(reversed(worker.held))
        self.workers[worker.number] = self._launch(worker.number)

    def _place(self, worker: Worker) -> str:
        """Where in the work a worker was."""
        place = "" if worker.sample is None else f" at sample {worker.sample} ({self._name(worker.sample)})"
        if worker.held:
            chunk = worker.held[0]
            rows = f"{chunk.start} to {chunk.start + len(chunk.indices) - 1}"
            place += f", making rows {rows} of batch {chunk.step} of epoch {chunk.epoch}"
        return place

    def _strike(self, sample: int | None, cause: str) -> None:
        if sample is None:
            return
        self._strikes[sample] += 1
        if self._strikes[sample] == DEADLY:
            self._excluded |= {sample}
            reason = f"{DEADLY} workers were lost at it; the last one {cause}"
            self._bad.add(BadSample(sample, self._name(sample), reason))


def _exit(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "closed its pipe"
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", as the kernel does when memory runs out" if name == "SIGKILL" else "")


def _state(pid: int) -> str:
    """What the kernel says a silent process is doing, where it says so."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return {"T": " (stopped by a signal)", "D": " (waiting for its disk)"}.get(letter, "")
