"""Memory that the trainer and its data workers share, and that nothing can leak.

The memory is an anonymous file (memfd): it has no name, so it is gone with the last process that maps it, SIGKILL
included, and the size of /dev/shm, 64 MB in many containers, does not matter.
"""

from __future__ import annotations

import io
import logging
import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from passl_simsiam.errors import UserError

log = logging.getLogger(__name__)

ALIGNMENT = 64  # a cache line: two workers never write to the same one


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class SharedMemory:
    """`size` bytes behind the file descriptor `fd`, which a child process may inherit and map."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = anonymous_file(size)
        self.map = mmap.mmap(self.fd, size)

    def close(self) -> None:
        """Give the descriptor back; the memory itself goes when the last array in it does."""
        os.close(self.fd)


def anonymous_file(size: int, shm: Path = Path("/dev/shm")) -> int:
    """The descriptor of a new nameless file of `size` bytes: a memfd, or else a file in `shm`, or else on disk."""
    try:
        fd = os.memfd_create("passl-loader")
    except (AttributeError, OSError):  # no Linux, an old kernel, or a sandbox that forbids it
        return _unlinked_file(size, shm)
    os.truncate(fd, size)
    return fd


def _unlinked_file(size: int, shm: Path) -> int:
    for folder, reserve in ((shm, True), (Path(tempfile.gettempdir()), False)):
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                fd = os.dup(file.fileno())
        except OSError:
            continue
        try:
            # Reserved, a full /dev/shm shows here, and not later as a SIGBUS.
            os.posix_fallocate(fd, 0, size) if reserve else os.truncate(fd, size)
        except OSError:
            os.close(fd)
            continue
        log.warning("no memfd on this system: data workers share %.1f MB through %s instead", size / 2**20, folder)
        return fd
    raise UserError(f"no room for the {size / 2**20:.1f} MB that data workers share; set num_workers: 0")


class SharedPickle:
    """An object pickled once for any number of processes.

    The pickle lies in an anonymous file, not in this process's memory, and the object's arrays (CIFAR's pixels, the
    labels of a million files) are read-only views of that file wherever it is loaded, instead of a copy each.
    """

    def __init__(self, value: Any) -> None:
        """Raises UserError when `value` cannot be pickled."""
        buffers: list[pickle.PickleBuffer] = []
        self.fd = anonymous_file(0, shm=Path(tempfile.gettempdir()))
        try:
            with os.fdopen(os.dup(self.fd), "wb") as file:
                pickle.Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
                self._spans = [(0, file.tell())]
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            os.close(self.fd)
            reason = f"the data set or transform cannot go to worker processes ({error})"
            raise UserError(f"{reason}; set num_workers: 0") from error
        for view in (buffer.raw() for buffer in buffers):
            start = aligned(self._spans[-1][1])
            self._spans.append((start, start + view.nbytes))
            _write_all(self.fd, view, start)

    def spans(self) -> Sequence[tuple[int, int]]:
        """What `load` needs besides the descriptor: where the pickle and each array lie."""
        return self._spans

    @staticmethod
    def load(fd: int, spans: Sequence[tuple[int, int]]) -> Any:
        memory = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
        # Read, not mapped: the mapped pages of a large pickle would count beside the object made from them.
        stream = io.BufferedReader(_Reader(fd))
        return pickle.Unpickler(stream, buffers=[memory[start:stop] for start, stop in spans[1:]]).load()

    def close(self) -> None:
        os.close(self.fd)


class _Reader(io.RawIOBase):
    """A file from its start, with a position of its own: that of the descriptor is shared with other processes."""

    def __init__(self, fd: int) -> None:
        self._fd, self._position = fd, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._fd, [buffer], self._position)
        self._position += count
        return count


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    """Written, not mapped and copied: pages that only workers read do not count as this process's memory."""
    while data.nbytes:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def available_memory() -> int | None:
    """Bytes that this process may still use, by the kernel and by its control group; None where neither tells."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            limits.append(max(0, int(limit) - int((group / "memory.current").read_text())))
    except (OSError, ValueError):
        pass  # another system, or cgroup v1: what was found so far has to do
    return min(limits, default=None)
