"""What every data set is: an indexed collection of uint8 images, with or without labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from passl_simsiam.errors import UserError, suggest

# What users call the two splits; the first name of each row is the one a data set works with.
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "test", "validation", "valid"), "all": ("all",)}


class NoSuchSplit(UserError):
    """A split that the data at hand does not have, where other splits are."""


class Dataset(ABC):
    """Images by index.

    Attributes:
        labels: int64 [n], or None when the images have no labels.
        classes: the class names, `classes[label]`, or None without labels.
        in_channels: channels of every image that `read` returns.
    """

    labels: np.ndarray | None = None
    classes: list[str] | None = None
    in_channels: int = 3

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Image `index` as uint8 [height, width, in_channels], RGB order. Raises decode.BadImage for a broken file."""

    @property
    @abstractmethod
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel, pixel values in 0..1."""

    @property
    @abstractmethod
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel, pixel values in 0..1."""

    def name(self, index: int) -> str:
        """What logs call image `index`: its path, or the data set and the index."""
        return f"{type(self).__name__}[{index}]"


class Transform(Protocol):
    """From one image to its views. Instances are picklable.

    Attributes:
        num_views: how many views a call returns.
        size: their height and width in pixels.
    """

    num_views: int
    size: int

    def __call__(self, image: np.ndarray, rngs: Sequence[np.random.Generator]) -> list[np.ndarray]:
        """The views of `image` (uint8 [h, w, channels], not changed), each uint8 [size, size, channels], C-contiguous.

        All randomness of view k comes from `rngs[k]`. Raises UserError for a number of channels it cannot handle.
        """


def canonical_split(split: str, choices: Sequence[str], dataset: str) -> str:
    """`split` by its canonical name ("train", "val" or "all"). Raises UserError unless it is one of `choices`."""
    for canonical in choices:
        if split.lower() in SPLIT_NAMES[canonical]:
            return canonical
    names = [name for canonical in choices for name in SPLIT_NAMES[canonical]]
    raise UserError(f"{dataset}: unknown split {split!r}; {suggest(split, names)}")


def per_channel(
    values: Sequence[float] | None, default: Sequence[float], what: str, positive: bool
) -> tuple[float, ...]:
    """The user's mean or std, or `default`, checked to hold one number a channel. Raises UserError."""
    if values is None:
        return tuple(default)
    if len(values) != len(default):
        raise UserError(f"{what} has {len(values)} numbers, the images have {len(default)} channels")
    if positive and min(values) <= 0:
        raise UserError(f"{what} must be positive, not {list(values)}")
    return tuple(map(float, values))
