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
import hashlib
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from passl_simsiam.tasks.feature_files import (
    BROKEN,
    FEATURES,
    INDEX,
    RECORD,
    Progress,
    alone,
    begun_before,
    commit,
    finish,
    part_file,
    read_progress,
    write_json,
)
from passl_simsiam.tasks.images import encoder
from passl_simsiam.tasks.pretrained import Pretrained

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
        with alone(out):
            begun = begun_before(out, record)
            if begun is None:
                write_json(out / RECORD, record)
                progress = Progress()
            elif "rows" in begun:
                log.info(f"{out} is complete: {begun['rows']} rows")
                return Progress(rows=begun["rows"], broken=begun["broken"], channels=begun["channels"])
            else:
                progress = read_progress(out)
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
            finish(out, record, progress, settings.dtype)
    except OSError as error:
        raise UserError(f"{error.filename or out}: {error.strerror or error}") from error
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
        parts = {name: files.enter_context(part_file(out, name, size)) for name, size in progress.sizes.items()}
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
                commit(out, parts, progress)
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
