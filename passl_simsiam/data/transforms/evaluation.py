"""One view of an image: fixed for evaluation, lightly augmented for training a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passl_simsiam.data.transforms import geometry
from passl_simsiam.data.transforms.checks import check_parameters
from passl_simsiam.data.transforms.geometry import CROP_DRAWS, Range
from passl_simsiam.errors import UserError
from passl_simsiam.registry import TRANSFORMS


@TRANSFORMS.register
@dataclass(frozen=True)
class ResizeCenterCrop:
    """The usual evaluation on ImageNet: the shorter side to `resize` pixels, then the central `size` x `size`."""

    num_views: ClassVar[int] = 1

    size: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        check_parameters(self)
        if self.resize < self.size:
            raise UserError(f"ResizeCenterCrop: resize is {self.resize}; it must be at least size, {self.size}")

    def __call__(self, image: np.ndarray, rngs: Sequence[np.random.Generator]) -> list[np.ndarray]:
        return [geometry.center_crop(geometry.resize_shorter_side(image, self.resize), self.size)]


@TRANSFORMS.register
@dataclass(frozen=True)
class Resize:
    """The whole image at `size` x `size`, whatever its ratio."""

    num_views: ClassVar[int] = 1

    size: int

    def __post_init__(self) -> None:
        check_parameters(self)

    def __call__(self, image: np.ndarray, rngs: Sequence[np.random.Generator]) -> list[np.ndarray]:
        return [geometry.resize(image, self.size, self.size)]


@TRANSFORMS.register
@dataclass(frozen=True)
class RandomResizedCropFlip:
    """The usual training of a classifier on ImageNet: random crop and flip."""

    num_views: ClassVar[int] = 1

    size: int = 224
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        check_parameters(self)

    def __call__(self, image: np.ndarray, rngs: Sequence[np.random.Generator]) -> list[np.ndarray]:
        (rng,) = rngs
        *draws, flip = rng.random(CROP_DRAWS + 1).tolist()
        box = geometry.random_resized_crop_box(image.shape[0], image.shape[1], self.scale, self.ratio, draws)
        view = geometry.resized_crop(image, box, self.size, self.size)
        return [geometry.horizontal_flip(view) if flip < self.flip_probability else view]

    def reduction(self, height: int, width: int) -> int:
        """See RandomViews.reduction."""
        return geometry.safe_reduction(height, width, self.size, self.scale, self.ratio)
