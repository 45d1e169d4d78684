"""Images from wherever the user has them, and the way from them to features."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import nn

from passl_simsiam.data.base import Dataset
from passl_simsiam.data.datasets.files import EXTENSIONS, ImageFiles
from passl_simsiam.data.datasets.folder import ImageFolder
from passl_simsiam.data.datasets.listing import ImageList
from passl_simsiam.data.datasets.paths import PathList
from passl_simsiam.data.decode import MAX_PIXELS
from passl_simsiam.errors import UserError
from passl_simsiam.models.normalize import Normalize

Array = np.ndarray[Any, Any]
Encode = Callable[[Array], Array]


class ArrayImages(Dataset):
    """Images in memory.

    Args:
        arrays: uint8 [h, w] or [h, w, channels], of any sizes; anything that numpy.asarray takes (a PIL image).
        in_channels: wanted; grey becomes RGB and RGB grey, alpha is dropped.

    Raises:
        UserError: no images, another type than uint8, or another shape.
    """

    def __init__(self, arrays: Sequence[Any], in_channels: int) -> None:
        if not len(arrays):
            raise UserError("there are no images")
        self._arrays, self.in_channels = arrays, in_channels

    def __len__(self) -> int:
        return len(self._arrays)

    def read(self, index: int) -> Array:
        image = np.asarray(self._arrays[index])
        image = image[:, :, None] if image.ndim == 2 else image
        if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
            raise UserError(
                f"image {index} is {image.dtype} {list(image.shape)}; expected uint8 [height, width, channels]"
            )
        channels = image.shape[2]
        if channels == 4:
            image, channels = image[:, :, :3], 3
        if channels == 1 and self.in_channels == 3:
            image = np.repeat(image, 3, axis=2)
        elif channels == 3 and self.in_channels == 1:
            image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[:, :, None]
        elif channels != self.in_channels:
            raise UserError(f"image {index} has {channels} channels, the network takes {self.in_channels}")
        return np.ascontiguousarray(image)

    @property
    def mean(self) -> tuple[float, ...]:
        raise NotImplementedError("the network says how its images are normalised")

    @property
    def std(self) -> tuple[float, ...]:
        raise NotImplementedError("the network says how its images are normalised")


def open_images(source: Any, in_channels: int, split: str | None = None) -> Dataset:
    """The images that a user means.

    Args:
        source: a folder (see ImageFolder), a list in a text or CSV file (see ImageList), one image's file; or a
            sequence of files or of uint8 arrays, or one uint8 array [n, h, w, channels].
        split: of a folder.

    Raises:
        UserError: there are none, or they are something else.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir():
            return ImageFolder(str(source), split, in_channels=in_channels)
        if path.suffix.lower().lstrip(".") in EXTENSIONS:
            return _files([path], in_channels)
        if not path.exists():
            raise UserError(f"there are no images at {source}: no such folder or file")
        return ImageList(str(source), in_channels=in_channels)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise UserError(
            f"an array of images is uint8 [n, height, width, channels], not {list(source.shape)}; images of different "
            "sizes come as a list of arrays, and so does a single one"
        )
    if not isinstance(source, np.ndarray) and len(source) and isinstance(source[0], str | Path):
        return _files([Path(path).expanduser() for path in source], in_channels)
    return ArrayImages(source, in_channels)


def _files(paths: Sequence[Path], in_channels: int) -> ImageFiles:
    names = [os.fsencode(path) for path in paths]
    return ImageFiles(".", PathList([(b"", names)]), None, None, in_channels, None, None, MAX_PIXELS)


def encoder(layer: nn.Layer, mean: Sequence[float], std: Sequence[float]) -> Encode:
    """`layer`, in evaluation mode, as a function from uint8 [b, H, W, C] to float32 [b, d]."""
    normalize = Normalize(mean, std)
    layer.eval()

    def encode(images: Array) -> Array:
        with paddle.no_grad():
            return layer(normalize(paddle.to_tensor(images))).numpy()

    return encode
