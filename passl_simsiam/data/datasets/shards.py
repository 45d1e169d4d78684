"""Images in tar shards laid out as WebDataset's, read by index.

A tar file is a sequence, and WebDataset's readers therefore shuffle by shard and through a buffer. Here an index of
where each image starts makes the shards a data set like any other instead: every epoch is one global permutation,
any rank or worker can make any sample, and a run resumes at any step, all with the same views. The price is one seek
an image, which local disks (SSD, NVMe) and the page cache give away; for a spinning disk, shards bring order to the
files but not to the reads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tarfile
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from passl_simsiam.data.base import SPLIT_NAMES, canonical_split
from passl_simsiam.data.datasets.files import EXTENSIONS, ImageFiles, Statistic
from passl_simsiam.data.datasets.paths import PathList
from passl_simsiam.data.decode import MAX_PIXELS, BadImage
from passl_simsiam.errors import UserError
from passl_simsiam.registry import DATASETS

log = logging.getLogger(__name__)

INDEX = "index.npz"
CLASSES = "classes.txt"
Integers = NDArray[np.int64]


@DATASETS.register
class Shards(ImageFiles):
    """The images of all `*.tar` files in a folder, by the names of the files and then in the order in them.

    As in WebDataset, members that agree up to the first dot of their file name are one sample: `0017.jpg` is its image
    and `0017.cls`, if there, its label, a number in text. `classes.txt` beside the shards, a name a line, names the
    classes. Where the images are is kept in `index.npz` beside the shards, and found out again when they change.

    Args:
        root: the folder; with a split in it, `root`/`split`.
        split: "train", "val" (or "test"), or "all" or null for the shards in `root` itself.
        in_channels: see ImageFiles, as for mean, std and max_pixels.

    Raises:
        UserError: when there are no shards or no images in them, or a shard is damaged.
    """

    def __init__(
        self,
        root: str,
        split: str | None = None,
        in_channels: int = 3,
        mean: Statistic = None,
        std: Statistic = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        folder = _find(Path(root).expanduser(), split)
        index = _index(folder)
        labels = index.labels if (index.labels >= 0).any() else None
        classes = _classes(folder, labels)
        super().__init__(str(folder), index.paths(), labels, classes, in_channels, mean, std, max_pixels)
        self._shards = list(map(str, index.shards))
        self._first = np.concatenate([[0], np.cumsum(index.counts)]).tolist()
        self._offsets, self._sizes = index.offsets, index.sizes

    def encoded(self, index: int) -> bytes:
        shard = Path(self.root, self._shards[bisect_right(self._first, index) - 1])
        size = int(self._sizes[index])
        try:
            with shard.open("rb", buffering=0) as file:
                file.seek(int(self._offsets[index]))
                data = file.read(size)
        except OSError as error:
            raise BadImage(self.name(index), error.strerror or str(error)) from error
        if len(data) < size:
            raise BadImage(self.name(index), "the shard ends before the image does")
        return data


def _find(root: Path, split: str | None) -> Path:
    """The folder that holds the shards of `split`."""
    if not root.is_dir():
        raise UserError(f"Shards: root {str(root)!r} {'is not a folder' if root.exists() else 'does not exist'}")
    canonical = canonical_split(split, ("train", "val", "all"), "Shards") if split else "all"
    names = (split, *SPLIT_NAMES[canonical]) if split and canonical != "all" else ()
    folder = next((root / name for name in names if (root / name).is_dir()), root)
    if canonical == "val" and folder == root:
        raise UserError(f"Shards: split {split!r}: no folder {' or '.join(SPLIT_NAMES['val'])} in {str(root)!r}")
    return folder


def _classes(folder: Path, labels: Integers | None) -> list[str] | None:
    if labels is None:
        return None
    count = int(labels.max()) + 1
    file = folder / CLASSES
    if not file.exists():
        return [str(label) for label in range(count)]
    classes = file.read_text(encoding="utf-8").splitlines()
    if len(classes) < count:
        raise UserError(f"Shards: label {count - 1} is in the shards, but {str(file)!r} names {len(classes)} classes")
    return classes


@dataclass(frozen=True)
class Index:
    """Where the images of a folder of shards are.

    Attributes:
        shards: the names of the tar files.
        stamps: int64 [shards, 2], size in bytes and time of the last change in ns.
        counts: int64 [shards], images in each.
        offsets, sizes, labels: int64 [n], where each image starts in its shard, its bytes, its label (-1: none).
        names: uint8, the names of the images, a line each.
    """

    shards: Sequence[str]
    stamps: Integers
    counts: Integers
    offsets: Integers
    sizes: Integers
    labels: Integers
    names: NDArray[np.uint8]

    def paths(self) -> PathList:
        return PathList(self._groups())

    def _groups(self) -> Iterator[tuple[bytes, Sequence[bytes]]]:
        """(shard, names of its images), one shard at a time: all the names as objects would take much memory."""
        lines = np.flatnonzero(self.names == ord("\n"))
        start = last = 0
        for shard, count in zip(self.shards, self.counts.tolist(), strict=True):
            if count:
                last += count
                stop = int(lines[last - 1])
                yield os.fsencode(shard), self.names[start:stop].tobytes().split(b"\n")
                start = stop + 1


def _index(folder: Path) -> Index:
    """The index of the shards in `folder`: the kept one if nothing has changed since, or a new one."""
    files = sorted(folder.glob("*.tar"))
    if not files:
        raise UserError(f"Shards: no *.tar files in {str(folder)!r}")
    stamps = np.array([(file.stat().st_size, file.stat().st_mtime_ns) for file in files], np.int64)
    shards = [file.name for file in files]
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
        with np.load(folder / INDEX, allow_pickle=False) as kept:
            index = Index(**{key: kept[key] for key in Index.__dataclass_fields__})
        if list(index.shards) == shards and np.array_equal(index.stamps, stamps):
            return index
    log.info("indexing %d shards in %s", len(files), folder)
    parts = [_scan(file) for file in files]
    if not any(len(part[0]) for part in parts):
        raise UserError(f"Shards: no images in the {len(files)} shards in {str(folder)!r}")
    numbers = np.concatenate([part[0] for part in parts])
    index = Index(
        shards=shards,
        stamps=stamps,
        counts=np.array([len(part[0]) for part in parts], np.int64),
        offsets=numbers[:, 0].copy(),
        sizes=numbers[:, 1].copy(),
        labels=numbers[:, 2].copy(),
        names=np.frombuffer(b"".join(part[1] for part in parts), np.uint8),
    )
    try:
        _keep(index, folder / INDEX)
    except OSError as error:
        log.warning("the index of the shards cannot be kept (%s): it is made again at every start", error)
    return index


def _keep(index: Index, file: Path) -> None:
    """Atomically, for several processes may start at once."""
    aside = file.with_name(f".{uuid.uuid4().hex}.npz")
    np.savez(aside, **{key: np.asarray(value) for key, value in vars(index).items()})  # type: ignore[arg-type]
    aside.replace(file)


def _scan(shard: Path) -> tuple[Integers, bytes]:
    """The images of one shard: int64 [n, 3] of offset, size and label, and their names, a line each."""
    images: dict[str, tuple[int, int, bytes]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}"
                if extension.lower().rpartition(".")[2] in EXTENSIONS:
                    place = (member.offset_data, member.size, os.fsencode(member.name).replace(b"\n", b"?"))
                    images.setdefault(key, place)
                elif extension == "cls" and (content := tar.extractfile(member)):
                    labels[key] = int(content.read())
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"Shards: {str(shard)!r} is damaged ({error}); pack it again or take it away") from error
    numbers = [(offset, size, labels.get(key, -1)) for key, (offset, size, _) in images.items()]
    names = b"".join(name + b"\n" for _, _, name in images.values())
    return np.array(numbers, np.int64).reshape(-1, 3), names
