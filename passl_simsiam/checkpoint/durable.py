"""Writes that are on disk when they return, and the digests that later prove it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.errors import UserError


def write_json(path: Path, value: Mapping[str, Any]) -> str:
    """Write and sync `value`, one line a key; its SHA-256. NumPy scalars become numbers."""
    lines = (f"{json.dumps(key)}: {json.dumps(item, default=_plain)}" for key, item in value.items())
    data = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, on disk when this returns (its name, once `sync_folder` has been called)."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a checkpoint's state cannot hold a {type(value).__name__}")


def point(folder: Path, pointer: str, name: str) -> None:
    """Replace `pointer` by a link to `name` in one step."""
    aside, link = folder / f".tmp-{pointer}", folder / pointer
    aside.unlink(missing_ok=True)
    try:
        aside.symlink_to(name, target_is_directory=True)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        write_bytes(aside, f"{name}\n".encode())
    if link.is_dir() and not link.is_symlink():
        # A copy that followed links has made a folder of it, which no rename replaces.
        link.rename(folder / f".tmp-{pointer}-folder")
    aside.replace(link)
    sync_folder(folder)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file at, which then takes its place in one step; nothing remains on failure.

    Raises:
        UserError: the system refused (no such folder, no right, a full disk).
    """
    aside = path.with_name(f".tmp-{path.name}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """A rename is on disk once the folder that holds the names is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        state = hashlib.sha256()
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
