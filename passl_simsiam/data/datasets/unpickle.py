"""A reader of pickled dicts of lists and arrays that cannot run code from the file."""

from __future__ import annotations

import codecs
import pickle
from typing import Any, BinaryIO

import numpy as np
from numpy._core import multiarray


class UnsafePickle(Exception):
    """The pickle asks for something that lists and numpy arrays do not need, or is broken."""


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    """What protocol 2 writes for bytes; only the one encoding that it uses."""
    if encoding != "latin1":
        raise UnsafePickle(f"bytes in encoding {encoding!r}")
    return codecs.encode(text, "latin1")


# Reconstruction of arrays under the module names of numpy 1 and 2, and bytes as Python 2 and 3 write them.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickle(f"it refers to {module}.{name}, which was refused") from None

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickle("it refers to persistent objects")


def load_arrays(file: BinaryIO) -> Any:
    """The object pickled in `file`, strings of Python 2 as bytes. Raises UnsafePickle."""
    try:
        return _ArrayUnpickler(file, encoding="bytes").load()
    except UnsafePickle:
        raise
    except Exception as error:  # a broken pickle makes the unpickler raise almost anything
        raise UnsafePickle(f"{type(error).__name__}: {error}") from error
