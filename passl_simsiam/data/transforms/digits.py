"""Views for small scanned digits: no flip and no colour, for both would change what the digit is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from passl_simsiam.data.transforms.checks import check_parameters
from passl_simsiam.data.transforms.geometry import CROP_DRAWS, Range, random_resized_crop_box
from passl_simsiam.errors import UserError
from passl_simsiam.registry import TRANSFORMS


@TRANSFORMS.register
@dataclass(frozen=True)
class DigitsViews:
    """Two random views: crop, rotation, shear and shift in one interpolation, then brightness and noise.

    Args:
        size: height and width of a view in pixels.
        scale: range of the crop's share of the image's area.
        ratio: range of the crop's width over height.
        rotation: largest angle in degrees, either way.
        shear: largest horizontal shear, as a tangent, either way.
        shift: largest shift along each axis, as a share of the view, either way. Black moves in from outside.
        brightness: the factor is drawn from 1 - brightness to 1 + brightness.
        noise: standard deviation of Gaussian noise, in units of the full range, the same for all channels.
    """

    num_views: ClassVar[int] = 2

    size: int = 16
    scale: Range = (0.5, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    rotation: float = 15.0
    shear: float = 0.2
    shift: float = 0.1
    brightness: float = 0.4
    noise: float = 0.05

    def __post_init__(self) -> None:
        check_parameters(self)
        for name, limit in (("rotation", 180), ("shear", 2), ("shift", 1)):
            if not 0 <= getattr(self, name) <= limit:
                raise UserError(f"DigitsViews: {name} must be between 0 and {limit}, not {getattr(self, name)}")

    def __call__(self, image: np.ndarray, rngs: Sequence[np.random.Generator]) -> list[np.ndarray]:
        """Two arrays uint8 [size, size, c] of `image`, uint8 [h, w, c]."""
        return [self._view(image, rng) for rng in rngs]

    def _view(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        numbers = rng.random(CROP_DRAWS).tolist()
        box = random_resized_crop_box(image.shape[0], image.shape[1], self.scale, self.ratio, numbers)
        angle, shear, right, down, light = rng.uniform(-1, 1, 5).tolist()
        matrix = self._to_source(box, math.radians(angle * self.rotation), shear * self.shear, right, down)
        view = cv2.warpAffine(
            image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        ).reshape(self.size, self.size, -1)
        noise = rng.normal(0.0, 255 * self.noise, (self.size, self.size, 1))
        return np.clip(np.rint(view * (1 + light * self.brightness) + noise), 0, 255).astype(np.uint8)

    def _to_source(
        self, box: tuple[int, int, int, int], angle: float, shear: float, right: float, down: float
    ) -> np.ndarray:
        """The affine map [2, 3] from a pixel (x, y) of the view to its place in the image.

        Pixel centres are at whole numbers, so the centre of n pixels is at (n - 1) / 2.
        """
        top, left, height, width = box
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = np.diag([width / self.size, height / self.size]) @ turn @ np.array([[1, shear], [0, 1]])
        middle = (self.size - 1) / 2 + self.size * self.shift * np.array([right, down])
        target = np.array([left + (width - 1) / 2, top + (height - 1) / 2])
        return np.column_stack([linear, target - linear @ middle])
