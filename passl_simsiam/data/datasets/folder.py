"""A folder of images: class folders, a split of them, or any tree of files without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from passl_simsiam.data.base import SPLIT_NAMES, NoSuchSplit, canonical_split
from passl_simsiam.data.datasets.files import EXTENSIONS, ImageFiles, Statistic
from passl_simsiam.data.datasets.paths import PathList
from passl_simsiam.data.decode import MAX_PIXELS
from passl_simsiam.errors import UserError
from passl_simsiam.registry import DATASETS

_SUFFIXES = frozenset(os.fsencode(extension) for extension in EXTENSIONS)


@DATASETS.register
class ImageFolder(ImageFiles):
    """Every image below a folder, in a fixed order.

    Files whose suffix is not that of an image or of a .npy array, and hidden ones, are ignored. Links are followed.

    Args:
        root: the folder; with a split in it, `root`/`split`.
        split: "train", "val" (also "test" or "validation", whichever folder there is) or "all". Without such a folder,
            "train" and null mean `root` itself.
        labels: "folder": the first-level folders are the classes, in sorted order (for "val", those of "train" if there
            is one, so that the numbers agree). "none": no labels. "auto": "folder" if there are at least two such
            folders with images and no image lies outside them, otherwise "none".
        in_channels: see ImageFiles, as for mean, std and max_pixels.

    Raises:
        UserError: when the folder or the split does not exist or has no images, or wanted labels are not there.
    """

    def __init__(
        self,
        root: str,
        split: str | None = None,
        labels: Literal["auto", "folder", "none"] = "auto",
        in_channels: int = 3,
        mean: Statistic = None,
        std: Statistic = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        folder = _find(Path(root).expanduser(), split)
        paths = PathList(_walk(os.fsencode(folder)))
        if not len(paths):
            raise UserError(f"ImageFolder: no images in {str(folder)!r}; {_contents(folder)}")
        classes, numbers = (None, None) if labels == "none" else _classes(folder, paths, required=labels == "folder")
        super().__init__(str(folder), paths, numbers, classes, in_channels, mean, std, max_pixels)


def _find(root: Path, split: str | None) -> Path:
    """The folder that holds the images of `split`."""
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"ImageFolder: root {str(root)!r} {state}")
    canonical = split and canonical_split(split, ("train", "val", "all"), "ImageFolder")
    if canonical == "all":
        return root
    # The name that the user typed comes first, for a root may hold both val and test.
    names = [split, *SPLIT_NAMES[canonical]] if split and canonical else []
    for name in names:
        if name and (root / name).is_dir():
            return root / name
    if canonical == "val":
        wanted = " or ".join(SPLIT_NAMES[canonical])
        raise NoSuchSplit(f"ImageFolder: split {split!r}: no folder {wanted} in {str(root)!r}; {_contents(root)}")
    if canonical is None and _split_folder(root, "train"):
        raise UserError(f"ImageFolder: {str(root)!r} holds splits, so set split: train, val or all; {_contents(root)}")
    return root


def _split_folder(root: Path, canonical: str) -> Path | None:
    return next((root / name for name in SPLIT_NAMES[canonical] if (root / name).is_dir()), None)


def _contents(folder: Path) -> str:
    """A few words on what is there."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    folders = [entry.name for entry in entries if entry.is_dir()]
    files = [entry.name for entry in entries if not entry.is_dir()]
    parts = []
    for kind, names in (("folders", folders), ("files", files)):
        if names:
            parts.append(f"{len(names)} {kind} ({', '.join(names[:5])}{' ...' if len(names) > 5 else ''})")
    return "found: " + (" and ".join(parts) if parts else "an empty folder")


def _walk(
    root: bytes, below: bytes = b"", links: frozenset[bytes] = frozenset()
) -> Iterator[tuple[bytes, list[bytes]]]:
    """(folder relative to `root`, sorted names of its images) of each folder with images, parents first, sorted.

    `links` are the targets of the links on the way here: a link back to one of them is not followed again.
    """
    here = b"/".join(filter(None, (root, below)))
    folders: list[tuple[bytes, bool]] = []
    names: list[bytes] = []
    try:
        with os.scandir(here) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b"."):
                    continue
                if entry.is_dir():
                    folders.append((name, entry.is_symlink()))
                elif name.rpartition(b".")[2].lower() in _SUFFIXES:
                    names.append(name)
    except OSError as error:
        raise UserError(f"ImageFolder: {os.fsdecode(here)!r}: {error.strerror}") from error
    if names:
        yield below, sorted(names)
    for name, is_link in sorted(folders):
        path = b"/".join(filter(None, (below, name)))
        if not is_link:
            yield from _walk(root, path, links)
        elif (target := os.path.realpath(b"/".join((root, path)))) not in links:
            yield from _walk(root, path, links | {target})


def _classes(folder: Path, paths: PathList, required: bool) -> tuple[list[str], np.ndarray] | tuple[None, None]:
    """The class names and the label of each path, int64 [n]."""
    sizes = [(os.fsdecode(below.partition(b"/")[0]), count) for below, count in paths.folder_sizes()]
    present = {name for name, _ in sizes}
    if "" in present or len(present) < 2:
        if required:
            raise UserError(f"ImageFolder: {str(folder)!r} has no class folders for its labels; {_contents(folder)}")
        return None, None
    train = _split_folder(folder.parent, "train") if folder.name.lower() in SPLIT_NAMES["val"] else None
    known = {entry.name for entry in os.scandir(train) if entry.is_dir()} if train else present
    if unknown := sorted(present - known):
        extra = ", ".join(unknown[:5])
        raise UserError(f"ImageFolder: {str(folder)!r} has classes that {str(train)!r} has not: {extra}")
    classes = sorted(name for name in known if not name.startswith("."))
    number = {name: k for k, name in enumerate(classes)}
    labels = np.repeat([number[name] for name, _ in sizes], [count for _, count in sizes]).astype(np.int64)
    return classes, labels
