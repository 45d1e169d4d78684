"""Some of the images of a data set: those that a list names, or the same share of each class."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from passl_simsiam.data.base import Dataset
from passl_simsiam.data.datasets.files import ImageFiles
from passl_simsiam.data.decode import Reduction
from passl_simsiam.errors import UserError


class Subset(Dataset):
    """The images `indices` of `dataset`, in that order, with its labels, classes and statistics.

    Args:
        dataset: any data set.
        indices: int64 [n], n > 0.
    """

    def __init__(self, dataset: Dataset, indices: np.ndarray) -> None:
        self.dataset, self.indices = dataset, indices
        self.labels = None if dataset.labels is None else dataset.labels[indices]
        self.classes = dataset.classes
        self.in_channels = dataset.in_channels

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, reduction: Reduction | None = None) -> np.ndarray:
        """Image `index`; `reduction` as in ImageFiles, where the data set is one, otherwise without effect."""
        place = int(self.indices[index])
        return self.dataset.read(place, reduction) if isinstance(self.dataset, ImageFiles) else self.dataset.read(place)

    def name(self, index: int) -> str:
        return self.dataset.name(int(self.indices[index]))

    @property
    def mean(self) -> tuple[float, ...]:
        return self.dataset.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.dataset.std


def share(dataset: Dataset, fraction: float, seed: int) -> Subset:
    """The same share of each class, rounded, at least one image; of images without labels a share of all.

    With one seed a smaller share is part of a larger one.

    Args:
        fraction: above 0, at most 1.
    """
    labels = np.zeros(len(dataset), np.int64) if dataset.labels is None else dataset.labels
    chosen = []
    for label in np.unique(labels):
        members = np.random.default_rng((seed, int(label) + 1)).permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return Subset(dataset, np.sort(np.concatenate(chosen)))


def listed(dataset: Dataset, file: str) -> Subset:
    """The images that a text file names, a line each: a file name (n01440764_10026.JPEG), or the end of a path.

    Raises:
        UserError: the file cannot be read or is empty, or names of it fit no image, or several.
    """
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"subset: {file} cannot be read: {error}") from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise UserError(f"subset: {file} names no images")
    wanted = {_base(name) for name in names}
    places: dict[str, list[int]] = defaultdict(list)
    for index in range(len(dataset)):
        base = _base(dataset.name(index))
        if base in wanted:
            places[base].append(index)

    def fitting(name: str) -> list[int]:
        found = places.get(_base(name), [])
        if "/" not in name:
            return found
        return [index for index in found if f"/{dataset.name(index)}".endswith("/" + name.removeprefix("./"))]

    matches = {name: fitting(name) for name in names}
    for problem, bad in (
        ("fit no image of the data set", [name for name in names if not matches[name]]),
        ("fit several images, so give more of their paths", [name for name in names if len(matches[name]) > 1]),
    ):
        if bad:
            example = f"{bad[0]!r}" + (f"; its images are named like {dataset.name(0)!r}" if len(dataset) else "")
            raise UserError(f"subset: {len(bad)} of the {len(names)} names in {file} {problem}, such as {example}")
    return Subset(dataset, np.unique([matches[name][0] for name in names]).astype(np.int64))


def _base(name: str) -> str:
    return name.rpartition("/")[2]
