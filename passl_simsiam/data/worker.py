"""A data worker: the process at the other end of a pipe, which makes chunks of batches in shared memory.

It is a fresh interpreter, not a fork: a fork of a trainer with running threads can deadlock, and would carry paddle.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

import numpy as np
from numpy.typing import NDArray

from passl_simsiam.data.bad import BadSample
from passl_simsiam.data.sampler import Indices
from passl_simsiam.data.samples import SampleMaker, Views
from passl_simsiam.data.shared import SharedPickle
from passl_simsiam.errors import UserError

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from passl_simsiam.data.worker import main; main(*map(int, sys.argv[2:]))"
)


@dataclass(frozen=True)
class Chunk:
    """The unit of work: some rows of one batch.

    Args:
        epoch: of the views.
        step: the batch's number.
        slot: where in shared memory the batch is put together.
        start: the chunk's first row in it.
        indices: its samples.
    """

    epoch: int
    step: int
    slot: int
    start: int
    indices: Indices


@dataclass(frozen=True)
class Done:
    """About a finished chunk: the samples that its rows hold now, and those found bad on the way."""

    used: Indices
    bad: list[BadSample]


@dataclass(frozen=True)
class Failed:
    """A mistake of the recipe (`user`) or of the program, which would come again in any worker."""

    text: str
    user: bool


@dataclass(frozen=True)
class Layout:
    """Where things are in the shared memory: a line for each worker's progress, then `slots` batches.

    Args:
        workers: how many.
        slots: how many batches.
        views: of a sample.
        shape: of one view of a batch, (rows, height, width, channels).
    """

    workers: int
    slots: int
    views: int
    shape: tuple[int, int, int, int]

    LINE = 64  # bytes of a progress line

    @property
    def slot_bytes(self) -> int:
        return self.views * int(np.prod(self.shape))

    @property
    def size(self) -> int:
        return self.workers * self.LINE + self.slots * self.slot_bytes

    def progress(self, memory: mmap.mmap, worker: int) -> NDArray[np.int64]:
        """int64 [2]: how many samples this worker has begun, and which one it is at (-1: none)."""
        return np.frombuffer(memory, np.int64, 2, worker * self.LINE)

    def batch(self, memory: mmap.mmap, slot: int) -> list[NDArray[np.uint8]]:
        """One uint8 array of `shape` a view."""
        start = self.workers * self.LINE + slot * self.slot_bytes
        flat = np.frombuffer(memory, np.uint8, self.slot_bytes, start)
        return list(flat.reshape(self.views, *self.shape))


def launch(
    pickled: SharedPickle, memory_fd: int, layout: Layout, number: int
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start worker `number`; returns it with the trainer's end of its pipe, on which it first says "ready" (None)."""
    ours, theirs = Pipe()
    inherited = (theirs.fileno(), memory_fd, pickled.fd)
    paths = [path or os.getcwd() for path in sys.path]  # noqa: PTH109 (a string is what sys.path holds)
    process = subprocess.Popen(
        [sys.executable, "-c", BOOT, json.dumps(paths), *map(str, inherited), str(os.getpid())],
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    theirs.close()
    with contextlib.suppress(OSError):  # it died at once: the end of the pipe tells
        ours.send((pickled.spans(), layout, number))
    return process, ours


def main(pipe_fd: int, memory_fd: int, pickle_fd: int, parent: int) -> None:
    """The worker's life: load the sample maker, then one chunk after the other, until the pipe ends."""
    os.setpgid(0, 0)  # what Ctrl-C and launchers send to the trainer's process group is the trainer's to handle
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    pipe = Connection(pipe_fd)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        spans, layout, number = pipe.recv()
        try:
            maker: SampleMaker = SharedPickle.load(pickle_fd, spans)
        except Exception as error:
            hint = "it must be importable from a module, not defined in the script" if "__main__" in str(error) else ""
            pipe.send(Failed(f"a data worker cannot load the data set: {error} {hint}".strip(), user=True))
            return
        if "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(0)  # the workers are the threads
        memory = mmap.mmap(memory_fd, 0)
        pipe.send(None)
        while True:
            chunk, excluded = pipe.recv()
            out = [view[chunk.start : chunk.start + len(chunk.indices)] for view in layout.batch(memory, chunk.slot)]
            pipe.send(_make(maker, chunk, out, excluded, layout.progress(memory, number)))


def _make(
    maker: SampleMaker, chunk: Chunk, out: Views, excluded: frozenset[int], progress: NDArray[np.int64]
) -> Done | Failed:
    def started(index: int) -> None:
        progress[0] += 1
        progress[1] = index

    try:
        used, bad = maker.fill(chunk.epoch, chunk.indices, out, excluded, started)
    except UserError as error:
        return Failed(str(error), user=True)
    except Exception:
        return Failed(f"a data worker failed:\n{traceback.format_exc()}", user=False)
    progress[1] = -1
    return Done(used, bad)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the trainer dies: a stopped or stuck worker never sees the pipe's end.

    More exactly, when the thread dies that launched it: one that draws batches should live as long as the loader.
    """
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()
