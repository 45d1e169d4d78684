"""Images in files of their own: what the folder and the list of paths have in common."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np

from passl_simsiam.data import decode, statistics
from passl_simsiam.data.base import Dataset, per_channel
from passl_simsiam.data.datasets.paths import PathList
from passl_simsiam.data.decode import BadImage, Reduction
from passl_simsiam.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "npy"})

Statistic = tuple[float, ...] | Literal["auto"] | None


class ImageFiles(Dataset):
    """Images at `root`/`paths[index]`.

    Args:
        root: the folder that the paths are relative to.
        paths: where the images are.
        labels: int64 [n] or None.
        classes: the names of the labels or None.
        in_channels: 3 for RGB, 1 for grey, any number for .npy arrays.
        mean: of each channel in 0..1, or "auto" to estimate it once from a sample of the images (kept in the user's
            cache folder); by default ImageNet's for RGB, "auto" for other numbers of channels.
        std: likewise.
        max_pixels: larger files are bad images.
    """

    def __init__(
        self,
        root: str,
        paths: PathList,
        labels: np.ndarray | None,
        classes: list[str] | None,
        in_channels: int,
        mean: Statistic,
        std: Statistic,
        max_pixels: int,
    ) -> None:
        if in_channels < 1:
            raise UserError(f"{type(self).__name__}: in_channels must be at least 1, not {in_channels}")
        self.root = root
        self.paths = paths
        self.labels = labels
        self.classes = classes
        self.in_channels = in_channels
        self.max_pixels = max_pixels
        self._mean = self._statistic("mean", mean, IMAGENET_MEAN)
        self._std = self._statistic("std", std, IMAGENET_STD)

    def _statistic(self, what: str, given: Statistic, imagenet: tuple[float, ...]) -> tuple[float, ...] | None:
        """The numbers, or None where they are to be estimated."""
        if given == "auto" or (given is None and self.in_channels != len(imagenet)):
            return None
        where = f"{type(self).__name__}: {what}"
        default = imagenet if given is None else (0.0,) * self.in_channels
        return per_channel(given, default, where, positive=what == "std")

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        path = self.paths[index]
        return path if path.startswith(os.sep) else f"{self.root}{os.sep}{path}"

    def encoded(self, index: int) -> bytes:
        """The file of image `index` as it is. Raises BadImage when it is missing or unreadable."""
        path = self.name(index)
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (a Path would take as long as the reading)
                return file.read()
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from error

    def read(self, index: int, reduction: Reduction | None = None) -> np.ndarray:
        """Image `index`, uint8 [h, w, in_channels]; a JPEG smaller by the factor that `reduction` allows.

        Raises BadImage for a file that is missing, unreadable or not a whole image.
        """
        return self.decoded(self.encoded(index), index, reduction)

    def decoded(self, data: bytes, index: int, reduction: Reduction | None = None) -> np.ndarray:
        """What `read` makes of `data`, the file of image `index`."""
        name = self.name(index)
        if name.lower().endswith(".npy"):
            return decode.read_array(data, name, self.in_channels)
        return decode.decode(data, name, self.in_channels, reduction, self.max_pixels)

    @property
    def mean(self) -> tuple[float, ...]:
        return self._mean or self._estimate().mean

    @property
    def std(self) -> tuple[float, ...]:
        return self._std or self._estimate().std

    def _estimate(self) -> statistics.Statistics:
        key = [os.fsencode(os.path.realpath(self.root)), str(self.in_channels).encode(), *self.paths.fingerprint()]
        return statistics.cached(self, key)
