"""Over a million paths in little memory."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np


class PathList:
    """Paths relative to a root, by index: one blob of names, where each ends, and the folders.

    A list of 1.3 million Python strings takes some 130 MB, again in every worker. This takes the bytes of the names and
    8 more a file, in two arrays, which worker processes share instead of copying them (`shared.SharedPickle`).

    Args:
        groups: (folder relative to the root, names in it); an empty folder name is the root itself.
    """

    def __init__(self, groups: Iterable[tuple[bytes, Sequence[bytes]]]) -> None:
        blob = bytearray()
        lengths: list[np.ndarray] = []
        self._folders: list[bytes] = []
        self._starts: list[int] = []
        count = 0
        for folder, names in groups:
            self._folders.append(folder)
            self._starts.append(count)
            count += len(names)
            blob += b"".join(names)
            lengths.append(np.fromiter(map(len, names), np.int64, len(names)))
        self._blob = np.frombuffer(blob, np.uint8)
        self._ends = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
        np.cumsum(self._ends, out=self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """The path of file `index`. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"no path {index} among {len(self)}")
        start = int(self._ends[index - 1]) if index else 0
        name = self._blob[start : int(self._ends[index])].tobytes()
        folder = self._folders[bisect_right(self._starts, index) - 1]
        return os.fsdecode(folder + b"/" + name if folder else name)

    def folder_sizes(self) -> list[tuple[bytes, int]]:
        """(folder, number of files) in the order of the files."""
        ends = [*self._starts[1:], len(self)]
        return [(folder, end - start) for folder, start, end in zip(self._folders, self._starts, ends, strict=True)]

    def fingerprint(self) -> Iterable[bytes]:
        """Bytes that tell this list from any other, for a hash."""
        yield b"\0".join(self._folders)
        yield self._blob.tobytes()
        yield self._ends.tobytes()
