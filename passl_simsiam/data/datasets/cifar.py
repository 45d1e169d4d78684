"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official python archives."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from passl_simsiam.data.base import Dataset, canonical_split, per_channel
from passl_simsiam.data.datasets.unpickle import UnsafePickle, load_arrays
from passl_simsiam.errors import UserError
from passl_simsiam.registry import DATASETS

_DOWNLOAD_BLOCK = 1 << 20
_DOWNLOAD_TIMEOUT = 60.0


class Release(NamedTuple):
    """One official archive: where it is, its checksum as published, and what it holds."""

    url: str
    md5: str
    folder: str
    files: dict[str, tuple[str, ...]]
    labels: str
    meta: str
    names: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _CIFAR(Dataset):
    """The shared reader: 32x32 RGB images held in memory (150 MB a train split).

    Args:
        root: the archive (.tar.gz), the folder it unpacks to, or a folder that holds either.
        split: "train" (50,000), "val" or "test" (10,000), or "all".
        download: fetch the archive into the folder `root` when it is not there; its checksum is verified.
        mean: of each channel in 0..1; by default the published values.
        std: likewise.

    Raises:
        UserError: when the data are not at `root`, are incomplete or are not what the archive holds.
    """

    release: Release

    def __init__(
        self,
        root: str,
        split: str = "train",
        download: bool = False,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        name = type(self).__name__
        split = canonical_split(split, ("train", "val", "all"), name)
        self._mean = per_channel(mean, self.release.mean, f"{name}: mean", positive=False)
        self._std = per_channel(std, self.release.std, f"{name}: std", positive=True)
        files = [file for part, listed in self.release.files.items() if split in (part, "all") for file in listed]
        read = _open(Path(root).expanduser(), self.release, download, name)
        batches = [_batch(read(file), file, self.release.labels) for file in files]
        self.images = np.concatenate([images for images, _ in batches])
        self.labels = np.concatenate([labels for _, labels in batches])
        self.classes = _names(read(self.release.meta), self.release)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    @property
    def mean(self) -> tuple[float, ...]:
        return self._mean

    @property
    def std(self) -> tuple[float, ...]:
        return self._std


@DATASETS.register
class CIFAR10(_CIFAR):
    __doc__ = (_CIFAR.__doc__ or "").replace("The shared reader", "CIFAR-10")

    release = Release(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        files={"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "val": ("test_batch",)},
        labels="labels",
        meta="batches.meta",
        names="label_names",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    )


@DATASETS.register
class CIFAR100(_CIFAR):
    __doc__ = (_CIFAR.__doc__ or "").replace("The shared reader", "CIFAR-100, its 100 fine labels")

    release = Release(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        files={"train": ("train",), "val": ("test",)},
        labels="fine_labels",
        meta="meta",
        names="fine_label_names",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    )


def _open(root: Path, release: Release, download: bool, name: str) -> Callable[[str], bytes]:
    """A function from a file's name within the release to its bytes. Raises UserError when there is none."""
    archive = root if root.name.endswith((".tar.gz", ".tgz")) else root / Path(release.url).name
    for folder in (root / release.folder, root):
        if (folder / release.meta).is_file():
            return lambda file: _read(folder / file)
    if not archive.is_file():
        if not download:
            raise UserError(
                f"{name}: no {archive.name} and no folder {release.folder} at {str(root)!r}"
                f"{_found(root)}; set download: true to fetch {release.url}"
            )
        _download(release.url, release.md5, archive)
    try:
        with tarfile.open(archive) as tar:
            wanted = {f"{release.folder}/{file}" for file in (release.meta, *sum(release.files.values(), ()))}
            members = {Path(m.name).name: tar.extractfile(m) for m in tar if m.isfile() and m.name in wanted}
            contents = {file: stream.read() for file, stream in members.items() if stream}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{name}: {str(archive)!r} cannot be read: {error}") from error

    def read(file: str) -> bytes:
        if file not in contents:
            raise UserError(f"{name}: {str(archive)!r} holds no {release.folder}/{file}")
        return contents[file]

    return read


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def _found(root: Path) -> str:
    if not root.exists():
        return " (which does not exist)"
    if root.is_file():
        return " (a file)"
    entries = sorted(entry.name for entry in root.iterdir())
    if not entries:
        return " (an empty folder)"
    return f" (found: {', '.join(entries[:5])}{' ...' if len(entries) > 5 else ''})"


def _download(url: str, md5: str, target: Path) -> None:
    """Fetch `url` to `target`, which appears only when complete and of the right checksum. Raises UserError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(usedforsecurity=False)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT) as response:
                while block := response.read(_DOWNLOAD_BLOCK):
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != md5:
                raise UserError(f"{url}: the download has md5 {digest.hexdigest()}, not {md5}; try again")
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except OSError as error:
            raise UserError(f"{url} cannot be downloaded to {str(target)!r}: {error}") from error
        finally:
            Path(file.name).unlink(missing_ok=True)


def _unpickle(data: bytes, file: str) -> dict[str, Any]:
    try:
        content = load_arrays(io.BytesIO(data))
    except UnsafePickle as error:
        raise UserError(f"CIFAR: {file} is not an official batch: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"CIFAR: {file} is not an official batch: it holds no dict")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _names(data: bytes, release: Release) -> list[str]:
    names = _unpickle(data, release.meta).get(release.names)
    if not isinstance(names, list):
        raise UserError(f"CIFAR: {release.meta} holds no list {release.names!r}")
    return [_text(name) for name in names]


def _batch(data: bytes, file: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels int64 [n] of one pickled batch (rows of 1,024 red, green, blue bytes)."""
    content = _unpickle(data, file)
    rows, targets = content.get("data"), content.get(labels)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise UserError(f"CIFAR: {file} holds no uint8 array of rows of 3,072 bytes")
    if not isinstance(targets, list) or len(targets) != len(rows):
        raise UserError(f"CIFAR: {file} holds no {labels!r} for its {len(rows)} images")
    images = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.array(targets, np.int64)
