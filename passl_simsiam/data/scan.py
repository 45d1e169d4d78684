"""A data set's state of health: how many images, of which kinds, which are bad or double, and how fast they load."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from passl_simsiam.data import headers
from passl_simsiam.data.bad import BadSample
from passl_simsiam.data.base import Dataset, Transform
from passl_simsiam.data.datasets.files import ImageFiles
from passl_simsiam.data.decode import BadImage
from passl_simsiam.data.keys import generator
from passl_simsiam.data.samples import reader
from passl_simsiam.data.shared import available_memory

TIMED = 100  # images for the rates
PORTION = 4096  # images in hand at once
SHOWN = 10  # bad files and groups of doubles in the table


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        images: in the data set.
        bad: those that cannot be read.
        formats: number of images by format and mode ("JPEG RGB", "PNG", "array of 3 channels").
        sides: int64 [good images, 2], height and width in pixels as `read` returns them.
        bytes: of all image files; 0 when the images are not in files of their own.
        doubles: names of images with the same content, a list for each group of at least two.
        classes: number of images by class; empty without labels.
        decode_rate: images a second that one core reads and decodes.
        views_rate: images a second for which one core makes the views too, or None without a transform.
        shm_free: free bytes in /dev/shm, or None where there is none (the loader does not need it).
        memory_free: bytes that this process may still use, or None if unknown.
    """

    images: int
    bad: list[BadSample]
    formats: dict[str, int]
    sides: np.ndarray
    bytes: int
    doubles: list[list[str]]
    classes: dict[str, int]
    decode_rate: float
    views_rate: float | None
    shm_free: int | None
    memory_free: int | None


@dataclass(frozen=True)
class _Found:
    """About one image."""

    digest: bytes = b""
    kind: str = ""
    sides: tuple[int, int] = (0, 0)
    size: int = 0
    bad: BadSample | None = None


def scan(
    dataset: Dataset, transform: Transform | None = None, threads: int | None = None, console: Console | None = None
) -> Scan:
    """Read and decode every image of `dataset` on all cores (decoders let go of Python's lock), with a progress bar."""
    count = len(dataset)
    kinds: Counter[str] = Counter()
    bad: list[BadSample] = []
    size = 0
    sides = np.zeros((count, 2), np.int64)
    digests = np.zeros((count, 2), np.uint64)
    with ThreadPoolExecutor(threads or os.cpu_count()) as executor:
        found = track(_looks(executor, dataset), "scanning", count, console=console or Console(stderr=True))
        for index, image in enumerate(found):
            size += image.size
            if image.bad:
                bad.append(image.bad)
            else:
                kinds[image.kind] += 1
                sides[index], digests[index] = image.sides, np.frombuffer(image.digest, np.uint64)
    good = np.flatnonzero(sides[:, 0])
    timed = good[np.linspace(0, len(good) - 1, min(TIMED, len(good))).astype(int)].tolist()
    return Scan(
        images=count,
        bad=bad,
        formats=dict(kinds.most_common()),
        sides=sides[good],
        bytes=size,
        doubles=_doubles(dataset, good, digests[good]),
        classes=_classes(dataset),
        decode_rate=_rate(dataset, None, timed),
        views_rate=_rate(dataset, transform, timed) if transform else None,
        shm_free=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        memory_free=available_memory(),
    )


def _looks(executor: ThreadPoolExecutor, dataset: Dataset) -> Iterator[_Found]:
    """About each image in turn. In portions, for a future takes more memory than all that is known of an image."""
    for start in range(0, len(dataset), PORTION):
        yield from executor.map(lambda index: _look(dataset, index), range(start, min(start + PORTION, len(dataset))))


def _doubles(dataset: Dataset, indices: np.ndarray, digests: np.ndarray) -> list[list[str]]:
    """The names of those of the images `indices` [n] whose digests, uint64 [n, 2], agree."""
    order = np.lexsort(digests.T)
    ends = np.flatnonzero((np.diff(digests[order], axis=0) != 0).any(axis=1)) + 1
    bounds = np.concatenate([[0], ends, [len(order)]])
    groups = [indices[order[bounds[k] : bounds[k + 1]]] for k in np.flatnonzero(np.diff(bounds) > 1)]
    return [[dataset.name(index) for index in sorted(group.tolist())] for group in groups]


def _look(dataset: Dataset, index: int) -> _Found:
    data = b""
    try:
        if isinstance(dataset, ImageFiles):
            data = dataset.encoded(index)
            image = dataset.decoded(data, index)
        else:
            image = dataset.read(index)
    except BadImage as error:
        return _Found(size=len(data), bad=BadSample(index, error.path, error.reason))
    except Exception as error:  # a broken file may make a decoder raise anything
        return _Found(size=len(data), bad=BadSample(index, dataset.name(index), f"{type(error).__name__}: {error}"))
    digest = hashlib.blake2b(data or image.tobytes(), digest_size=16).digest()
    return _Found(digest, _kind(data, image), (image.shape[0], image.shape[1]), len(data))


def _kind(data: bytes, image: np.ndarray) -> str:
    """Format and mode of an image file, as far as its header tells."""
    header = headers.parse(data) if data else None
    if header is None:
        return f"array of {image.shape[2]} channels"
    mode = {1: " grey", 3: " RGB", 4: " CMYK"}.get(header.components, "")
    return f"{header.format}{mode}{' with EXIF data' if header.oriented else ''}"


def _classes(dataset: Dataset) -> dict[str, int]:
    if dataset.labels is None:
        return {}
    names = dataset.classes or [str(label) for label in range(int(dataset.labels.max()) + 1)]
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _rate(dataset: Dataset, transform: Transform | None, indices: list[int]) -> float:
    """Images a second of one thread, with their views if there is a transform."""
    read = reader(dataset, transform) if transform else dataset.read
    start = time.perf_counter()
    for index in indices:
        image = read(index)
        if transform:
            transform(image, [generator(0, 0, index, view) for view in range(transform.num_views)])
    return len(indices) / max(time.perf_counter() - start, 1e-9)


def show(scan: Scan, console: Console) -> None:
    """Print a scan as a table, then the bad and the double images."""
    table = Table(show_header=False, title="data set")
    for name, value in _rows(scan):
        table.add_row(name, value)
    console.print(table)
    for bad in scan.bad[:SHOWN]:
        console.print(f"bad: {bad.name}: {bad.reason}", markup=False, soft_wrap=True)
    for names in scan.doubles[:SHOWN]:
        console.print("the same image: " + ", ".join(names[:SHOWN]), markup=False, soft_wrap=True)


def _rows(scan: Scan) -> list[tuple[str, str]]:
    share = len(scan.bad) / max(scan.images, 1)
    rows = [("images", f"{scan.images:,}"), ("bad", f"{len(scan.bad):,} ({share:.2%})")]
    rows.append(("formats", ", ".join(f"{kind}: {count:,}" for kind, count in scan.formats.items()) or "none"))
    if len(scan.sides):
        short, pixels = scan.sides.min(axis=1), scan.sides.prod(axis=1)
        rows.append(("shorter side", _spread(short, "px")))
        rows.append(("pixels", _spread(pixels / 1e6, "megapixels")))
    if scan.bytes:
        rows.append(("files", f"{scan.bytes / 2**20:,.1f} MB"))
    extra = sum(len(names) - 1 for names in scan.doubles)
    rows.append(("doubles", f"{extra:,} in {len(scan.doubles):,} groups"))
    if scan.classes:
        counts = np.array(list(scan.classes.values()))
        rows.append(("classes", f"{len(counts):,}; images of a class: {_spread(counts, '')}"))
        least, most = min(scan.classes, key=scan.classes.__getitem__), max(scan.classes, key=scan.classes.__getitem__)
        rows.append(("balance", f"largest {most} ({counts.max():,}), smallest {least} ({counts.min():,})"))
    rows.append(("decoding", f"{scan.decode_rate:,.0f} images/s a core"))
    if scan.views_rate is not None:
        rows.append(("decoding and views", f"{scan.views_rate:,.0f} images/s a core"))
    for name, free in (("free memory", scan.memory_free), ("free in /dev/shm", scan.shm_free)):
        rows.append((name, "unknown" if free is None else f"{free / 2**20:,.0f} MB"))
    return rows


def _spread(values: np.ndarray, unit: str) -> str:
    low, middle, high = (_number(float(value)) for value in (values.min(), np.median(values), values.max()))
    return f"{low} to {high} {unit}".rstrip() + f", median {middle}"


def _number(value: float) -> str:
    """Thousands whole and separated, smaller numbers to three digits and never in powers of ten."""
    return (
        f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}" if value >= 0.001 else "under 0.001"
    )
