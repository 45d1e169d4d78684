"""Reads weight files of Paddle, torch and safetensors without running anything from them, and bounds what they cost.

`paddle.load`, `pickle.load` and older `torch.load` execute code that a file brings along. Here a file is data: see
unpickle.py for the interpreter and pickled_arrays.py for what it may build. Archives are read in memory, never
unpacked. Memory stays below about twice the file's size, whatever the file claims.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl_simsiam.checkpoint.pickled_arrays import CALLS, IGNORED, NAMES, STORAGES, Storage, resolve
from passl_simsiam.checkpoint.tensors import one_line, read_tensors
from passl_simsiam.checkpoint.unpickle import Name, Refused, Unpickler
from passl_simsiam.errors import UserError

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of torch < 1.6
MAX_DIRECTORY = 4 << 20  # bytes of the table of contents of a zip or a safetensors file: room for 40,000 tensors

# What people take for weight files: first bytes, and what they are.
LOOKALIKES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<!DOCTYPE": "a web page, not weights; the download has failed",
    b"<html": "a web page, not weights; the download has failed",
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"\x93NUMPY": "a single NumPy array",
}


@dataclass(frozen=True)
class Contents:
    """A weight file's content.

    Attributes:
        kind: "safetensors", "pickle" (Paddle's .pdparams and .pdopt), "torch" or "torch-legacy" (before 1.6).
        tree: nested dicts, lists, tuples, scalars, texts and ndarrays, read-only; bfloat16 as uint16.
    """

    kind: str
    tree: Any


def read(path: Path) -> Contents:
    """Read the weight file at `path`, its kind told from its content. Raises UserError, one line, for anything else."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}, not a weight file")
        with path.open("rb") as file:
            head = file.read(512)
        if is_safetensors(head, path.stat().st_size):
            if int.from_bytes(head[:8], "little") > MAX_DIRECTORY:
                raise Refused("its table of contents is too large")
            return Contents("safetensors", read_tensors(path))
        data = path.read_bytes()
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return Contents("torch", _read_zip(data))
        if head.startswith(b"\x80"):
            return _read_pickle(data)
    except Refused as error:
        raise UserError(f"{path} is refused: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise UserError(f"{path} does not fit into this machine's memory") from error
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error, zipfile.BadZipFile,
            NotImplementedError) as error:  # fmt: skip
        raise UserError(f"{path} is damaged or cut off: {one_line(error)}") from error
    raise UserError(f"{path} is not a weight file: {_lookalike(head)}")


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` claims to be safetensors: a length, then JSON."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_pickle(data: bytes) -> Contents:
    stream = io.BytesIO(data)
    first = _unpickler(stream, data).load()
    if first != TORCH_MAGIC:
        if stream.tell() != len(data):
            raise ValueError("there is more data behind its end")
        return Contents("pickle", resolve(first, len(data)))
    return Contents("torch-legacy", _read_legacy(stream, data))


def _read_legacy(stream: io.BytesIO, data: bytes) -> Any:
    """torch < 1.6: after the magic number the pickles protocol, system, content, storage keys; then the storages."""
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        kind, storage, key, _, items, view = identity
        if kind != "storage" or view is not None:
            raise Refused("it shares data in a way that only torch before 0.4 wrote")
        return storages.setdefault(key, _storage(storage, items))

    unpickler = _unpickler(stream, data, persistent)
    protocol, system, tree, keys = (unpickler.load() for _ in range(4))
    if protocol != 1001 or not isinstance(system, dict) or not system.get("little_endian", True):
        raise Refused("it was written by an unknown version of torch or on a big-endian machine")
    for key in keys:
        storage = storages[key]
        start = stream.tell() + 8
        end = start + storage.bytes
        if int.from_bytes(data[start - 8 : start], "little") != storage.items or end > len(data):
            raise ValueError("a tensor's data is not where it should be")
        storage.data = memoryview(data)[start:end]
        stream.seek(end)
    if stream.tell() != len(data):
        raise ValueError("there is more data behind its end")
    return resolve(tree, len(data))


def _read_zip(data: bytes) -> Any:
    """torch >= 1.6: ARCHIVE/data.pkl and one stored entry ARCHIVE/data/KEY for each storage."""
    entries = _entries(data)
    roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refused("it is a zip archive that torch.save did not write")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise Refused("it is a TorchScript program, not weights; save the module's state_dict instead")
    order = entries.get(f"{root}byteorder")
    if order is not None and bytes(_stored(data, order)) != b"little":
        raise Refused("it was written on a big-endian machine")
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        kind, storage, key, _, items = identity
        if kind != "storage":
            raise ValueError("a tensor has no data")
        if key not in storages:
            storages[key] = _storage(storage, items)
            storages[key].data = _stored(data, entries[f"{root}data/{key}"])
            if len(storages[key].data or b"") != storages[key].bytes:
                raise ValueError("a tensor's data has another size than the file says")
        return storages[key]

    pickled = _stored(data, entries[f"{root}data.pkl"])
    tree = _unpickler(io.BytesIO(pickled), pickled, persistent).load()
    return resolve(tree, len(data))


def _entries(data: bytes) -> dict[str, zipfile.ZipInfo]:
    """The zip's entries by name, refusing what torch never writes and an attacker might."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in zipfile.ZipFile(_Capped(data)).infolist():
        parts = entry.filename.replace("\\", "/").split("/")
        if ".." in parts or "" in parts[:-1] or ":" in parts[0]:
            raise Refused(f"it is a zip archive with the path {entry.filename[:80]!r}")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise Refused(f"it is a zip archive with the link {entry.filename[:80]!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Refused("it is a compressed zip archive, which torch.save never writes")
        if entry.flag_bits & 1:
            raise Refused("it is an encrypted zip archive")
        if entry.filename in entries:
            raise Refused(f"it is a zip archive with two entries {entry.filename[:80]!r}")
        entries[entry.filename] = entry
    return entries


class _Capped(io.BytesIO):
    """zipfile reads a whole table of contents, as large as the file says, and makes large objects of it."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise Refused("it is a zip archive with too many entries")
        return super().read(size)


def _stored(data: bytes, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of a stored entry, without a copy, its checksum verified."""
    header = data[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"entry {entry.filename[:80]!r} is not where it should be")
    name, extra = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + 30 + name + extra
    content = memoryview(data)[start : start + entry.file_size]
    if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
        raise ValueError(f"the checksum of {entry.filename[:80]!r} is wrong")
    return content


def _unpickler(stream: io.BytesIO, data: bytes | memoryview, persistent: Any = None) -> Unpickler:
    return Unpickler(stream, len(data), CALLS, NAMES, IGNORED, persistent)


def _storage(kind: Any, items: Any) -> Storage:
    if not isinstance(kind, Name) or kind.path.removeprefix("torch.") not in STORAGES or type(items) is not int:
        raise ValueError("a tensor's data has an unknown type")
    if not 0 <= items < 1 << 48:
        raise ValueError("a tensor's size is no size")
    return Storage(STORAGES[kind.path.removeprefix("torch.")], items)


def _lookalike(head: bytes) -> str:
    if not head.strip(b"\0"):
        return "it is empty" if not head else "it begins with zeros (an unfinished download?)"
    meanings = (meaning for start, meaning in LOOKALIKES.items() if head.startswith(start))
    default = "it is a tar archive (torch before 0.1.10?)" if head[257:262] == b"ustar" else "its content is unknown"
    return next((f"it is {meaning}" for meaning in meanings), default)
