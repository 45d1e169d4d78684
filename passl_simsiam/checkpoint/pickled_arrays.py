"""What NumPy, Paddle and torch write into pickles for an array, and our inert stand-ins for it.

Stand-ins only note what the file says. `resolve` turns them into arrays at the end, as views on the file's own bytes
and only where shape, dtype and strides fit into them: nothing is allocated because a file asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from passl_simsiam.checkpoint.unpickle import Buildable, Name, Opaque, Refused, plain_key

MAX_DEPTH = 64

# Bytes of storages by torch's class or dtype name; bfloat16 is uint16, as everywhere in this package.
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "u2", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip
_SCALARS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class DType(Buildable):
    """numpy.dtype(code, align, copy), its byte order set by BUILD."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        if code not in _SCALARS:
            raise Refused(f"it has an array of dtype {_shown(code)}")
        self.value = np.dtype(code)

    def build(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError("a byte order is unknown")
        self.value = self.value.newbyteorder("<" if order == "=" else order)


class Array(Buildable):
    """A numpy array: made empty, its parts set by BUILD, or in one go (_frombuffer)."""

    def __init__(self) -> None:
        self.parts: tuple[Any, DType, tuple[int, ...], str] | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.set(data, dtype, shape, "F" if fortran else "C")

    def set(self, data: Any, dtype: Any, shape: Any, order: str) -> None:
        if not isinstance(data, str | bytes | bytearray):
            raise Refused("it has an array of Python objects")
        if not isinstance(dtype, DType) or len(data) != _count(shape) * dtype.value.itemsize:
            raise ValueError("an array's size is not that of its data")
        self.parts = data, dtype, shape, order

    def view(self) -> np.ndarray:
        if self.parts is None:
            raise ValueError("an array has no content")
        data, dtype, shape, order = self.parts
        # Python 2 and protocol 2 write bytes as a text of Latin-1 characters.
        data = data.encode("latin-1") if isinstance(data, str) else data
        return np.frombuffer(data, dtype.value).reshape(shape, order=order)  # type: ignore[call-overload]


@dataclass
class Storage:
    """Bytes of a torch file that tensors are views of; `data` is filled in when they are found."""

    dtype: str
    items: int
    data: memoryview | None = None

    @property
    def bytes(self) -> int:
        return self.items * np.dtype(self.dtype).itemsize


@dataclass
class Tensor:
    """A torch tensor: a strided view on a storage; offset and strides count items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self) -> np.ndarray:
        if self.storage.data is None:
            raise ValueError("a tensor's data is missing")
        flat = np.frombuffer(self.storage.data, self.storage.dtype, count=self.storage.items)
        count = _count(self.shape)
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)) if count else -1
        # `count` bounds tensors that repeat one number without end by a stride of 0.
        if self.offset + reach >= len(flat) or count > len(flat):
            raise ValueError("a tensor does not fit into its data")
        strides = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)


def resolve(tree: Any, size: int) -> Any:
    """`tree` with its stand-ins as arrays.

    Args:
        size: bytes of the file. Its containers and scalars must not be more than these, nor its arrays take more than
            four times as much: references could otherwise multiply a small file without end.

    Raises:
        ValueError: a tensor that does not fit into its storage, or an array that never got its content.
        Refused: more nesting, nodes or bytes than the file can mean honestly.
    """
    return _Resolver(size).visit(tree, 0)


class _Resolver:
    def __init__(self, size: int) -> None:
        self.bytes_left, self.nodes_left = 4 * size, size

    def visit(self, node: Any, depth: int) -> Any:
        self.nodes_left -= 1
        if depth > MAX_DEPTH or self.nodes_left < 0:
            raise Refused("it nests containers beyond any use")
        if isinstance(node, dict):
            return {key: self.visit(value, depth + 1) for key, value in node.items()}
        if isinstance(node, list | tuple | set | frozenset):
            kind = tuple if isinstance(node, tuple) else list
            return kind(self.visit(item, depth + 1) for item in node)
        if isinstance(node, DType):
            return node.value
        if isinstance(node, Array | Tensor):
            if self.bytes_left < 0:
                raise Refused("its tensors would take many times the file's size")
            array = node.view()
            self.bytes_left -= array.nbytes
            return array
        return node


def _count(shape: Any) -> int:
    """The number of items in a shape, which must be a tuple of a few sizes that are no negative numbers."""
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise ValueError("a shape is no shape")
    return math.prod(shape)


def _shown(value: Any) -> str:
    """A value from the file for a message: short, and never a walk through what the file has nested."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def _encode(text: Any, codec: Any = "latin1") -> str:
    """_codecs.encode of protocol 2. The text stays one until it is needed: a file can ask for any number of copies."""
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise Refused(f"it encodes a text as {_shown(codec)}")
    return text


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Array:
    array = Array()
    array.set(data, dtype, shape, "F" if order == "F" else "C")
    return array


def _scalar(dtype: Any, data: Any) -> Array:
    return _from_buffer(data, dtype, ())


def _reconstruct(kind: Any, *_: Any) -> Array:
    if kind != Name("numpy.ndarray"):
        raise Refused("it makes an array that is not numpy's")
    return Array()


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return {plain_key(key): value for key, value in items}


def _evaluate(expression: Any, names: Any = None, *_: Any) -> Any:
    """Paddle writes a dense tensor as eval("data", {"data": array}): an expression that is one given name."""
    if expression != "data" or not isinstance(names, dict) or set(names) != {"data"}:
        raise Refused("it calls builtins.eval, for which a weight file has no use; nothing was run")
    return names["data"]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no data")
    for sizes in ((offset,), shape, strides):
        _count(sizes)
    return Tensor(storage, offset, shape, strides)


def _attribute(owner: Any, *_: Any) -> Opaque:
    """mmengine's logs hold references to methods of theirs."""
    if not isinstance(owner, Opaque):
        raise Refused("it calls builtins.getattr, for which a weight file has no use; nothing was run")
    return owner


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _first(*items: Any) -> Any:
    return items[0] if items else ()


def _calls() -> Mapping[str, Callable[..., Any]]:
    calls: dict[str, Callable[..., Any]] = {
        "numpy.dtype": DType,
        "_codecs.encode": _encode,
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch.Size": _first,
    }
    for numpy in ("numpy.core", "numpy._core"):
        calls[f"{numpy}.multiarray._reconstruct"] = _reconstruct
        calls[f"{numpy}.multiarray.scalar"] = _scalar
        calls[f"{numpy}.numeric._frombuffer"] = _from_buffer
    for builtins in ("builtins", "__builtin__"):
        calls[f"{builtins}.tuple"] = _first
        calls[f"{builtins}.eval"] = _evaluate
        calls[f"{builtins}.getattr"] = _attribute
    return calls


CALLS = _calls()
NAMES = frozenset({"numpy.ndarray", *(f"torch.{name}" for name in STORAGES)} | {
    f"torch.{name}"
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
})  # fmt: skip
# Objects that trainers put beside the weights. Their classes say how a run was configured or logged: not needed here.
IGNORED = (
    "argparse.Namespace", "collections.defaultdict", "collections.Counter", "collections.deque", "copy_reg._recon",
    "copyreg._recon", "datetime.", "lightning.", "lightning_fabric.", "mmcv.", "mmengine.", "numpy.dtypes.",
    "numpy.random.", "omegaconf.", "pathlib.", "pytorch_lightning.", "torch.device", "torch.torch_version.", "typing.",
    *(f"{home}.{name}" for home in ("builtins", "__builtin__") for name in ("int", "list", "dict", "set", "object")),
)  # fmt: skip
