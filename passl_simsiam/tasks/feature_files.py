"""The files of an extraction under way: bytes first, then the word that they are there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.checkpoint import durable
from passl_simsiam.errors import UserError

FEATURES, INDEX, BROKEN, RECORD, PROGRESS = "features.npy", "index.csv", "broken.csv", "extract.json", "progress.json"
HEADER = 128  # bytes before the first row: room for any shape, so that it can be written last


@dataclass
class Progress:
    """What is on disk for good: batches, rows, images that could not be read, channels, bytes of each file."""

    batches: int = 0
    rows: int = 0
    broken: int = 0
    channels: int = 0
    sizes: dict[str, int] = field(default_factory=lambda: {FEATURES: HEADER, INDEX: 0, BROKEN: 0})


@contextlib.contextmanager
def part_file(out: Path, name: str, size: int) -> Iterator[Any]:
    """The unfinished file, cut back to the `size` bytes that are known to be good."""
    path = out / f"{name}.part"
    with path.open("r+b" if path.exists() else "x+b") as file:
        fresh = size == (HEADER if name == FEATURES else 0)
        if file.seek(0, os.SEEK_END) < size and not fresh:
            raise UserError(f"{path} is shorter than {PROGRESS} says: remove {out} and begin anew")
        file.truncate(size)
        file.seek(size)
        yield file


def commit(out: Path, parts: Mapping[str, Any], progress: Progress) -> None:
    """Bytes first, then the word that they are there."""
    for name, file in parts.items():
        file.flush()
        os.fsync(file.fileno())
        progress.sizes[name] = file.tell()
    write_json(out / PROGRESS, vars(progress))


def finish(out: Path, record: Mapping[str, Any], progress: Progress, dtype: str) -> None:
    """Give the files their names; done again from the start if a kill comes between."""
    if not progress.rows:
        broken = (out / f"{BROKEN}.part").read_text(errors="replace").splitlines()
        raise UserError(f"none of {progress.broken} images can be read, for instance {broken[1]}")
    for name, size in progress.sizes.items():
        part = out / f"{name}.part"
        if not part.exists():
            continue
        with part_file(out, name, size) as file:
            if name == FEATURES:
                file.seek(0)
                file.write(npy_header((progress.rows, progress.channels), np.dtype(dtype)))
            file.flush()
            os.fsync(file.fileno())
        if name == BROKEN and not progress.broken:
            part.unlink()
        else:
            part.replace(out / name)
    durable.sync_folder(out)
    outcome = {"rows": progress.rows, "channels": progress.channels, "broken": progress.broken}
    write_json(out / RECORD, {**record, **outcome})
    (out / PROGRESS).unlink(missing_ok=True)


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """The header of a .npy file (format 1.0), padded to HEADER bytes."""
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(fields).encode().ljust(HEADER - 11) + b"\n"
    return np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text


def begun_before(out: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier extraction into `out` said, if there was one. Raises UserError unless it was the same one."""
    path = out / RECORD
    if not path.exists():
        if taken := [name for name in (FEATURES, INDEX) if (out / name).exists()]:
            raise UserError(f"{out} holds {taken[0]} of something else; give another folder")
        return None
    begun = _read_json(path)
    if changed := [key for key, value in record.items() if begun.get(key) != value]:
        key = changed[0]
        raise UserError(
            f"{out} holds features of another {key} ({begun.get(key)}, now {record[key]}); give another folder"
        )
    return begun


def read_progress(out: Path) -> Progress:
    path = out / PROGRESS
    if not path.exists():
        return Progress()
    try:
        return Progress(**_read_json(path))
    except TypeError as error:
        raise UserError(f"{path} is damaged: remove {out} and begin anew") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: remove {path.parent} and begin anew") from error
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file in one step."""
    with durable.replacing(path) as aside:
        aside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Two processes that append to the same files would spoil them. The system drops the lock of a killed one."""
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing features to {out}") from error
        yield
    finally:
        os.close(handle)
