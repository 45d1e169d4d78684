"""Memory that the trainer and its data workers share, and that nothing can leak.

The memory is an anonymous file (memfd): it has no name, so it is gone with the last process that maps it, SIGKILL
included, and the size of /dev/shm, 64 MB in many containers, does not matter.
"""

from __future__ import annotations

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
            (os.posix_fallocate(fd, 0, size) if reserve else os.truncate(fd, size))
        except OSError:
            os.close(fd)
            continue
        log.warning("no memfd on this system: data workers share %.0f MB through %s instead", size / 2**20, folder)
        return fd
    raise UserError(f"no room for the {size / 2**20:.0f} MB that data workers share; set num_workers: 0")


class SharedPickle:
    """An object pickled once for any number of processes, its large arrays in shared memory instead of a copy each.

    The arrays (a list of 1.3 million paths, CIFAR's pixels) are read-only where the object is loaded.
    """

    def __init__(self, value: Any) -> None:
        """Raises UserError when `value` cannot be pickled."""
        buffers: list[pickle.PickleBuffer] = []
        try:
            self._stream = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"the data set or transform cannot go to worker processes ({error}); set num_workers: 0"
            ) from error
        views = [buffer.raw() for buffer in buffers]
        self._spans: list[tuple[int, int]] = []
        end = 0
        for view in views:
            self._spans.append((end, end + view.nbytes))
            end = aligned(end + view.nbytes)
        self.fd = anonymous_file(max(end, 1))
        for (start, _), view in zip(self._spans, views, strict=True):
            _write_all(self.fd, view, start)

    def recipe(self) -> tuple[bytes, Sequence[tuple[int, int]]]:
        """What `load` needs besides the descriptor."""
        return self._stream, self._spans

    @staticmethod
    def load(fd: int, stream: bytes, spans: Sequence[tuple[int, int]]) -> Any:
        memory = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
        return pickle.loads(stream, buffers=[memory[start:stop] for start, stop in spans])

    def close(self) -> None:
        os.close(self.fd)


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
