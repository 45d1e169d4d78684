"""Features of a folder of any size, written as they come, and gone on with where a killed extraction stopped.

OUT/features.npy   [rows, d], row by row in the order of the images
    index.csv      row, path, label (where there are labels), sha256 (if wanted)
    broken.csv     path, reason of the images that cannot be read, which have no row; absent if there are none
    extract.json   what the features are of: checkpoint, layer, view, images, versions

While it goes on the files are called NAME.part, and progress.json says how many bytes of each are on disk for good.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle

from passl_simsiam import __version__
from passl_simsiam.checkpoint import durable
from passl_simsiam.data.base import Dataset, Transform
from passl_simsiam.data.datasets.files import ImageFiles
from passl_simsiam.data.loader import Batch, Loader
from passl_simsiam.errors import UserError
from passl_simsiam.log import RunLog
from passl_simsiam.tasks.images import encoder
from passl_simsiam.tasks.pretrained import Pretrained

FEATURES, INDEX, BROKEN, RECORD, PROGRESS = "features.npy", "index.csv", "broken.csv", "extract.json", "progress.json"
HEADER = 128  # bytes before the first row: room for any shape, so that it can be written last
COMMIT_SECONDS = 2.0  # the work that a kill can cost


@dataclass(frozen=True)
class Settings:
    """How features are taken.

    Attributes:
        layer: one of pretrained.LAYERS.
        batch_size: images at a time. num_workers: processes that read them.
        sha256: also of each image's file.
    """

    layer: str = "backbone"
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int = 64
    num_workers: int = 0
    sha256: bool = False


@dataclass
class Progress:
    """What is on disk for good: batches, rows, images that could not be read, channels, bytes of each file."""

    batches: int = 0
    rows: int = 0
    broken: int = 0
    channels: int = 0
    sizes: dict[str, int] = field(default_factory=lambda: {FEATURES: HEADER, INDEX: 0, BROKEN: 0})


def extract_to(
    out: Path,
    network: Pretrained,
    data: Dataset,
    view: Transform,
    settings: Settings,
    log: RunLog,
    *,
    commit_seconds: float = COMMIT_SECONDS,
) -> Progress:
    """Write the features of `data` to the folder `out`, or go on with that, to bitwise the same files.

    Args:
        view: how an image is prepared.
        commit_seconds: from one commit to the next.

    Raises:
        UserError: `out` holds other features or cannot be written; no image can be read.
    """
    layer = network.layer(settings.layer)
    record = _record(network, data, view, settings)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            begun = _begun(out, record)
            if begun is None:
                write_json(out / RECORD, record)
                progress = Progress()
            elif "rows" in begun:
                log.info(f"{out} is complete: {begun['rows']} rows")
                return Progress(rows=begun["rows"], broken=begun["broken"], channels=begun["channels"])
            else:
                progress = _progress(out)
            encode = encoder(layer, network.images.mean, network.images.std)
            loader = Loader(
                data,
                view,
                batch_size=settings.batch_size,
                shuffle=False,
                drop_last=False,
                seed=0,
                num_workers=settings.num_workers,
                max_bad_fraction=1.0,
            )
            if progress.batches < len(loader):
                if progress.batches:
                    log.info(f"going on from row {progress.rows}")
                with loader:
                    _work(out, loader, data, encode, settings, progress, log, commit_seconds)
            _finish(out, record, progress, settings.dtype)
    except OSError as error:
        raise UserError(f"{error.filename or out} could not be written: {error.strerror or error}") from error
    return progress


def _work(
    out: Path,
    loader: Loader,
    data: Dataset,
    encode: Any,
    settings: Settings,
    progress: Progress,
    log: RunLog,
    commit_seconds: float,
) -> None:
    """The batches that are not there yet."""
    with contextlib.ExitStack() as files:
        parts = {name: files.enter_context(_part(out, name, size)) for name, size in progress.sizes.items()}
        if not progress.sizes[INDEX]:
            label = ["label"] if data.labels is not None else []
            parts[INDEX].write(_csv([["row", "path", *label, *(["sha256"] if settings.sha256 else [])]]))
            parts[BROKEN].write(_csv([["path", "reason"]]))
        bar = files.enter_context(log.progress(len(loader), start=progress.batches, label="extract"))
        committed = time.monotonic()
        for batch in loader.epoch(0, progress.batches):
            if len(batch["index"]):
                features = _typed(encode(batch["views"][0]), settings.dtype)
                parts[FEATURES].write(features.tobytes())
                progress.channels = features.shape[1]
            images = loader.images(progress.batches)
            broken = _broken(loader, data, progress.batches * settings.batch_size, images, batch)
            parts[INDEX].write(_csv(_rows(data, batch, progress.rows, settings.sha256)))
            parts[BROKEN].write(_csv(broken))
            progress.batches += 1
            progress.rows += len(batch["index"])
            progress.broken += len(broken)
            if time.monotonic() - committed >= commit_seconds or progress.batches == len(loader):
                _commit(out, parts, progress)
                committed = time.monotonic()
            bar.update(images=images, waited=loader.waited)


def _typed(features: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        typed = features.astype(dtype)
    if dtype == "float16" and not np.isfinite(typed).all() and np.isfinite(features).all():
        raise UserError(f"features up to {np.abs(features).max():.0f} do not fit into float16; use --dtype float32")
    return typed


def _rows(data: Dataset, batch: Batch, row: int, sha256: bool) -> Iterator[list[Any]]:
    for index in batch["index"].tolist():
        name = data.name(index)
        label = [] if data.labels is None else [_class(data, index)]
        yield [row, name, *label, *([durable.digest(Path(name))] if sha256 else [])]
        row += 1


def _class(data: Dataset, index: int) -> str:
    assert data.labels is not None
    label = int(data.labels[index])
    return data.classes[label] if data.classes else str(label)


def _broken(loader: Loader, data: Dataset, first: int, images: int, batch: Batch) -> list[list[str]]:
    missing = sorted(set(range(first, first + images)) - set(batch["index"].tolist()))
    return [[data.name(index), loader.bad[index].reason] for index in missing]


def _csv(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")  # a path is bytes, of whatever encoding


@contextlib.contextmanager
def _part(out: Path, name: str, size: int) -> Iterator[Any]:
    """The unfinished file, cut back to the `size` bytes that are known to be good."""
    path = out / f"{name}.part"
    with path.open("r+b" if path.exists() else "x+b") as file:
        fresh = size == (HEADER if name == FEATURES else 0)
        if file.seek(0, os.SEEK_END) < size and not fresh:
            raise UserError(f"{path} is shorter than {PROGRESS} says: remove {out} and begin anew")
        file.truncate(size)
        file.seek(size)
        yield file


def _commit(out: Path, parts: Mapping[str, Any], progress: Progress) -> None:
    """Bytes first, then the word that they are there."""
    for name, file in parts.items():
        file.flush()
        os.fsync(file.fileno())
        progress.sizes[name] = file.tell()
    write_json(out / PROGRESS, vars(progress))


def _finish(out: Path, record: Mapping[str, Any], progress: Progress, dtype: str) -> None:
    """Give the files their names; done again from the start if a kill comes between."""
    if not progress.rows:
        broken = (out / f"{BROKEN}.part").read_text(errors="replace").splitlines()
        raise UserError(f"none of {progress.broken} images can be read, for instance {broken[1]}")
    for name, size in progress.sizes.items():
        part = out / f"{name}.part"
        if not part.exists():
            continue
        with _part(out, name, size) as file:
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


def _record(network: Pretrained, data: Dataset, view: Transform, settings: Settings) -> dict[str, Any]:
    """All that the features depend on, as JSON holds it."""
    digest = hashlib.sha256()
    if isinstance(data, ImageFiles):
        for part in data.paths.fingerprint():
            digest.update(part)
    digest.update(repr(data.classes).encode(errors="surrogateescape"))
    if data.labels is not None:
        digest.update(data.labels.tobytes())
    return {
        "checkpoint": {
            "path": str(network.path),
            "sha256": network.sha256,
            **{key: network.state[key] for key in ("step", "epoch") if key in network.state},
        },
        "layer": settings.layer,
        "transform": repr(view),
        "mean": list(network.images.mean),
        "std": list(network.images.std),
        "images": {"count": len(data), "root": getattr(data, "root", None), "sha256_of_list": digest.hexdigest()},
        "dtype": settings.dtype,
        "batch_size": settings.batch_size,
        "sha256": settings.sha256,
        "versions": {"passl_simsiam": __version__, "paddlepaddle": paddle.__version__},
    }


def _begun(out: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
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


def _progress(out: Path) -> Progress:
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
def _alone(out: Path) -> Iterator[None]:
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
