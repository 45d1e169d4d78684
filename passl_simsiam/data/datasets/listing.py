"""Images named by a text or CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from passl_simsiam.data.datasets.files import ImageFiles, Statistic
from passl_simsiam.data.datasets.paths import PathList
from passl_simsiam.data.decode import MAX_PIXELS
from passl_simsiam.errors import UserError, suggest
from passl_simsiam.registry import DATASETS

# Rows held as Python objects at a time.
_CHUNK = 10_000

Row = tuple[bytes, str | None]


@DATASETS.register
class ImageList(ImageFiles):
    """The images that a file lists, in its order.

    A .csv file holds the path in its first column and, if there is a second, the label there; a header row that names
    columns `path` and `label` may put them elsewhere. Any other file holds one path a line, followed, if there are
    labels, by a tab and the label. Empty lines are ignored. Labels are class names, or numbers from 0 on.

    Args:
        file: the list.
        root: the folder that relative paths start from; by default that of the list.
        classes: the class names in the order of their numbers; by default the names in the list, sorted. Lists whose
            classes differ (a small validation list) need it to agree on the numbers.
        in_channels: see ImageFiles, as for mean, std and max_pixels.

    Raises:
        UserError: when the list cannot be read or is empty, labels are missing on some lines only or are not among
            `classes`, or the first image is not there.
    """

    def __init__(
        self,
        file: str,
        root: str | None = None,
        classes: tuple[str, ...] | None = None,
        in_channels: int = 3,
        mean: Statistic = None,
        std: Statistic = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        path = Path(file).expanduser()
        folder = Path(root).expanduser() if root is not None else path.parent
        collector = _Labels(str(path))
        try:
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
                rows = _csv_rows(lines) if path.suffix.lower() == ".csv" else _text_rows(lines)
                paths = PathList((b"", collector.take(chunk)) for chunk in _chunks(rows))
        except (OSError, csv.Error) as error:
            raise UserError(f"ImageList: {file!r} cannot be read: {error}") from error
        if not len(paths):
            raise UserError(f"ImageList: {file!r} lists no images")
        names, labels = collector.result(classes)
        super().__init__(str(folder), paths, labels, names, in_channels, mean, std, max_pixels)
        if not Path(self.name(0)).is_file():
            raise UserError(f"ImageList: the first image of {file!r} is not there: {self.name(0)}; is `root` right?")


def _text_rows(lines: Iterator[str]) -> Iterator[Row]:
    for line in lines:
        path, tab, label = line.strip("\r\n").partition("\t")
        if path.strip():
            yield os.fsencode(path.strip()), label.strip() if tab else None


def _csv_rows(lines: Iterator[str]) -> Iterator[Row]:
    reader = csv.reader(lines)
    path_at, label_at = 0, 1
    for number, row in enumerate(reader):
        header = [cell.strip().lower() for cell in row]
        if number == 0 and "path" in header:
            path_at = header.index("path")
            label_at = header.index("label") if "label" in header else len(header)
        elif len(row) > path_at and row[path_at].strip():
            label = row[label_at].strip() if len(row) > label_at else None
            yield os.fsencode(row[path_at].strip()), label


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


class _Labels:
    """Collects the labels of a list chunk by chunk, as small numbers in the order in which they first appear."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.numbers: dict[str, int] = {}
        self.parts: list[np.ndarray] = []
        self.unlabelled: bytes | None = None

    def take(self, rows: list[Row]) -> list[bytes]:
        """The paths of `rows`, whose labels are kept."""
        part = np.empty(len(rows), np.int64)
        for at, (path, label) in enumerate(rows):
            if not label:
                self.unlabelled = self.unlabelled or path
            else:
                part[at] = self.numbers.setdefault(label, len(self.numbers))
        self.parts.append(part)
        return [path for path, _ in rows]

    def result(self, classes: tuple[str, ...] | None) -> tuple[list[str], np.ndarray] | tuple[None, None]:
        """The class names and the labels, int64 [n]."""
        if not self.numbers:
            if classes is not None:
                raise UserError(f"ImageList: classes are given, but {self.file!r} has no labels")
            return None, None
        if self.unlabelled is not None:
            path = os.fsdecode(self.unlabelled)
            raise UserError(f"ImageList: {self.file!r} has labels, but none for {path!r}")
        labels = np.concatenate(self.parts)
        numeric = all(label.isascii() and label.isdigit() for label in self.numbers)
        if classes is None and numeric and max(map(int, self.numbers)) < len(labels):
            places = {label: int(label) for label in self.numbers}
            names = [str(number) for number in range(max(places.values()) + 1)]
        else:
            names = sorted(self.numbers) if classes is None else list(classes)
            places = {name: place for place, name in enumerate(names)}
        if unknown := next((label for label in self.numbers if label not in places), None):
            raise UserError(f"ImageList: label {unknown!r} in {self.file!r} is unknown; {suggest(unknown, places)}")
        return names, np.array([places[label] for label in self.numbers], np.int64)[labels]
