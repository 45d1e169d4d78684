"""Named tensors to and from safetensors files: exact for every dtype Paddle trains in, and on disk when it returns.

In memory bfloat16 is held as uint16, as `Tensor.numpy()` and `paddle.to_tensor` have it (Paddle has no uint16 of its
own); in the file it is BF16, as every other reader expects. 0-d tensors stay 0-d.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from passl_simsiam.errors import UserError

TO_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
FROM_NUMPY = {np.dtype(numpy): name for name, numpy in TO_NUMPY.items()}


def to_array(tensor: Any) -> np.ndarray:
    """An ndarray or anything with `.numpy()` as a little-endian C-contiguous array of the same values and shape."""
    array = _as_it_lies(tensor)
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _as_it_lies(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> str:
    """Write `tensors` (arrays or Paddle tensors) to a safetensors file, sync it and return its SHA-256.

    The layout is written here rather than by the library, because the digest then costs no second read, bfloat16
    needs no further package, and a full disk arrives as an OSError with its number.

    Raises:
        OSError: the file could not be written whole.
        TypeError: a dtype that safetensors does not know.
    """
    # In order and as bytes only one at a time, when written: transposed views may be of a file as large as memory.
    arrays = {name: _as_it_lies(tensor) for name, tensor in tensors.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    # Widest dtype first: every tensor then starts at a multiple of its item size, and can be mapped without a copy.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    for name in order:
        array = arrays[name]
        dtype = array.dtype.newbyteorder("<")
        if dtype not in FROM_NUMPY or name == "__metadata__":
            raise TypeError(f"tensor {name!r} of dtype {array.dtype} cannot be stored in a safetensors file")
        end = offset + array.nbytes
        header[name] = {
            "dtype": FROM_NUMPY[dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        content = (to_array(arrays[name]).tobytes() for name in order)
        for part in itertools.chain((len(text).to_bytes(8, "little"), text), content):
            file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, sorted by name, read-only. Raises UserError for a damaged or another file."""
    try:
        with safetensors.safe_open(path, "np"):
            pass  # the library has checked the whole header: sizes, shapes, and offsets that cover the file once
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        tensors = {}
        for name, entry in sorted(json.loads(data[8:start]).items()):
            if name != "__metadata__":
                begin, end = (start + offset for offset in entry["data_offsets"])
                # Views, because `safetensors.deserialize` would copy each tensor and so take the memory twice.
                flat = np.frombuffer(memoryview(data)[begin:end], dtype=TO_NUMPY[entry["dtype"]])
                tensors[name] = flat.reshape(entry["shape"])
        return tensors
    except KeyError as error:
        raise UserError(f"{path}: dtype {error.args[0]!r} is not supported; choices: {', '.join(TO_NUMPY)}") from error
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An error's message on one line and of readable length."""
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error).partition(", expected one of")[0]
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
