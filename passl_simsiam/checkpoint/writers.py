"""Writes weight files for others, .pdparams for Paddle's tools and .pth for torch, with neither installed."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from passl_simsiam.checkpoint.durable import replacing
from passl_simsiam.checkpoint.pickled_arrays import STORAGES
from passl_simsiam.checkpoint.tensors import to_array

ALIGNMENT = 64  # of a storage in a zip, so that torch can map the file
_STORAGE_OF = {np.dtype(code): name for name, code in STORAGES.items()}


@dataclass(frozen=True)
class _Call:
    """`function(*arguments)`, then `state` set on the result, when the file is read."""

    function: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class _Global:
    path: str


@dataclass(frozen=True)
class _Persistent:
    identity: tuple[Any, ...]


def write_pdparams(path: Path, tree: Any) -> None:
    """Write nested dicts, lists and tuples of arrays (uint16: bfloat16) and scalars for `paddle.load`.

    Raises:
        UserError: the file could not be written; an existing one is untouched.
        TypeError: a value that has no place in a weight file.
    """

    def pickled(array: np.ndarray) -> _Call:
        # numpy.core, not numpy._core: NumPy 1 and 2 both find it.
        empty = (_Global("numpy.ndarray"), (0,), b"b")
        order, code = array.dtype.str[0], array.dtype.str[1:]
        dtype = _Call("numpy.dtype", (code, False, True), (3, order, None, None, None, -1, -1, 0))
        return _Call("numpy.core.multiarray._reconstruct", empty, (1, array.shape, dtype, False, array.tobytes()))

    with replacing(path) as aside, aside.open("wb") as file:
        _Pickler(file, pickled, protocol=4).dump(tree)


def write_pth(path: Path, tree: Any) -> None:
    """Write nested dicts, lists and tuples of arrays (uint16: bfloat16) and scalars for `torch.load` (1.6 or later).

    Raises:
        UserError: the file could not be written; an existing one is untouched.
        TypeError: a value that has no place in a weight file, or a dtype that torch lacks.
    """
    storages: list[np.ndarray] = []

    def pickled(array: np.ndarray) -> _Call:
        if array.dtype not in _STORAGE_OF:
            raise TypeError(f"torch has no tensors of dtype {array.dtype}")
        storages.append(array)
        storage = (_Global(f"torch.{_STORAGE_OF[array.dtype]}"), str(len(storages) - 1), "cpu", array.size)
        strides = tuple(stride // array.itemsize for stride in array.strides)
        hooks = _Call("collections.OrderedDict", ())
        return _Call("torch._utils._rebuild_tensor_v2", (_Persistent(("storage", *storage)), 0, array.shape, strides,
                                                         False, hooks))  # fmt: skip

    root = "archive"
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(_aligned(archive, f"{root}/data.pkl"), "w") as file:
            _Pickler(file, pickled, protocol=2).dump(tree)
        archive.writestr(_aligned(archive, f"{root}/byteorder"), b"little")
        for key, array in enumerate(storages):
            archive.writestr(_aligned(archive, f"{root}/data/{key}"), array.tobytes())
        archive.writestr(_aligned(archive, f"{root}/version"), b"3\n")


def _aligned(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """An entry of a fixed date (equal weights give equal files) whose bytes will start at a multiple of ALIGNMENT."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    start = (archive.fp.tell() if archive.fp else 0) + 30 + len(name.encode()) + 4
    padding = -start % ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return entry


class _Pickler:
    """The few pickle operations that a tree of arrays takes; `pickle` itself could not name what it cannot import."""

    def __init__(self, file: BinaryIO | Any, array: Callable[[np.ndarray], _Call], protocol: int) -> None:
        self._write, self._array, self._protocol = file.write, array, protocol

    def dump(self, tree: Any) -> None:
        self._write(struct.pack("<cB", b"\x80", self._protocol))
        self._save(tree)
        self._write(b".")

    def _save(self, value: Any) -> None:
        write = self._write
        if value is None:
            write(b"N")
        elif isinstance(value, bool):
            write(b"\x88" if value else b"\x89")
        elif isinstance(value, int):
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            write(struct.pack("<cB", b"\x8a", len(data)) + data)
        elif isinstance(value, float):
            write(struct.pack(">cd", b"G", value))
        elif isinstance(value, str):
            text = value.encode()
            write(struct.pack("<cI", b"X", len(text)) + text)
        elif isinstance(value, bytes):
            short = len(value) < 1 << 32
            write(struct.pack("<cI", b"B", len(value)) if short else struct.pack("<cQ", b"\x8e", len(value)))
            write(value)
        elif isinstance(value, dict):
            write(b"}")
            self._items((part for item in value.items() for part in item), b"u")
        elif isinstance(value, list):
            write(b"]")
            self._items(value, b"e")
        elif isinstance(value, tuple):
            self._items(value, b"t")
        elif isinstance(value, _Global):
            module, _, name = value.path.rpartition(".")
            write(f"c{module}\n{name}\n".encode())
        elif isinstance(value, _Persistent):
            self._save(value.identity)
            write(b"Q")
        elif isinstance(value, _Call):
            self._save(_Global(value.function))
            self._save(value.arguments)
            write(b"R")
            if value.state is not None:
                self._save(value.state)
                write(b"b")
        elif isinstance(value, np.ndarray):
            self._save(self._array(to_array(value)))
        else:
            raise TypeError(f"a weight file cannot hold a {type(value).__name__}")

    def _items(self, items: Iterable[Any], end: bytes) -> None:
        self._write(b"(")
        for item in items:
            self._save(item)
        self._write(end)
