"""Crops, and resizing as Pillow does it: bilinear, antialiased when shrinking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from passl_simsiam.data.transforms.blur import fixed_point

Range = tuple[float, float]

# Uniform numbers that `random_resized_crop_box` takes: four for each of torchvision's ten attempts.
CROP_DRAWS = 40

# An axis that shrinks by at least this factor is halved first, and again while it is above.
_HALVE_FROM = 4.0
# An axis that shrinks by less is not filtered: it would make no visible difference in 8 bits.
_FILTER_FROM = 1.09
# A blur of at least this sigma does for both when an axis shrinks by at most this factor: mean gradients stay within
# 5 % of Pillow's on photographs, as they do without this short cut.
_BLUR_FROM = 0.6
_BLUR_TO = 2.25


def resize(image: np.ndarray, height: int, width: int, antialias: bool = True) -> np.ndarray:
    """`image` uint8 [h, w, c] at `height` x `width`.

    Pillow's bilinear filter is a triangle as wide as the shrinking factor s (half-width s source pixels, variance
    s**2 / 6). OpenCV's INTER_LINEAR is always the triangle of half-width 1 and aliases, its INTER_AREA is a box, and
    many times slower unless s is an integer. So a filter with whole taps comes first, which INTER_LINEAR's sampling
    completes to Pillow's triangle: exactly where s is an integer, in its variance elsewhere. An axis that shrinks much
    is first halved by INTER_AREA, the fast case. `antialias=False` leaves that filter to a blur.
    """
    tall, wide = image.shape[:2]
    if tall >= _HALVE_FROM * height or wide >= _HALVE_FROM * width:
        return _resize_far(image, height, width, antialias)
    if antialias:
        image = _prefilter(image, tall / height, wide / width)
    return _with_channels(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def _resize_far(image: np.ndarray, height: int, width: int, antialias: bool) -> np.ndarray:
    """`resize` when an axis is to be halved first."""
    targets = (height, width)
    extents = [float(image.shape[0]), float(image.shape[1])]  # of the picture, which padding may extend
    triangles = [extents[axis] / targets[axis] for axis in (0, 1)]
    while halved := [axis for axis in (0, 1) if extents[axis] >= _HALVE_FROM * targets[axis]]:
        image = _halve(image, halved)
        for axis in halved:
            extents[axis] /= 2
            # The box of a halving has variance 1/4 before and 1/16 after it; a triangle is the narrower for it.
            triangles[axis] = math.sqrt(triangles[axis] ** 2 / 4 - 6 / 16)
    if antialias:
        image = _prefilter(image, *triangles)
    # By the exact factors, because the array may be larger than the picture in it; what is too much is cut off.
    down, across = (targets[axis] / extents[axis] for axis in (0, 1))
    scaled = cv2.resize(image, None, fx=across, fy=down, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(_with_channels(scaled)[:height, :width])


def _prefilter(image: np.ndarray, down: float, across: float) -> np.ndarray:
    """What INTER_LINEAR completes to triangles of half-width `down` and `across` pixels along the two axes."""
    if down < _FILTER_FROM and across < _FILTER_FROM:
        return image
    taps = _triangle(round(across, 2)), _triangle(round(down, 2))
    return _with_channels(cv2.sepFilter2D(image, -1, *taps, borderType=cv2.BORDER_REPLICATE))


def merged_blur(box: tuple[int, int, int, int], size: int, sigma: float) -> tuple[float, float] | None:
    """The blur (down, across) that does for both: antialiasing of a crop that is resized, and a blur of `sigma` later.

    Variances add up. None where there is nothing to antialias, or `sigma` is too small for that not to be seen.
    """
    scales = [side / size for side in box[2:]]
    if sigma < _BLUR_FROM or not _FILTER_FROM <= max(scales) <= _BLUR_TO:
        return None
    down, across = (math.sqrt(sigma**2 + max(0.0, 1 - scale**-2) / 6) for scale in scales)
    return down, across


def _halve(image: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Halve the axes, after padding those that are odd with their last row or column."""
    sides = [-(-side // 2) if axis in axes else side for axis, side in enumerate(image.shape[:2])]
    down, across = (image.shape[axis] % 2 if axis in axes else 0 for axis in (0, 1))
    if down or across:
        image = _with_channels(cv2.copyMakeBorder(image, 0, down, 0, across, cv2.BORDER_REPLICATE))
    return _with_channels(cv2.resize(image, sides[::-1], interpolation=cv2.INTER_AREA))


@lru_cache(maxsize=1024)
def _triangle(width: float) -> NDArray[np.float32]:
    """Taps that, sampled by linear interpolation, make a triangle of half-width `width`.

    For a whole n the taps are that triangle's values, and their variance is (n**2 - 1) / 6; in between, the mixture of
    the two neighbours that has the right variance. Three taps at least, for OpenCV is slow with fewer.
    """
    below = max(1, int(width))
    share = max(0.0, (width**2 - below**2) / (2 * below + 1))
    offsets = np.abs(np.arange(-below, below + 1))
    lower, upper = (np.maximum(0, 1 - offsets / n) / n for n in (below, below + 1))
    return fixed_point((1 - share) * lower + share * upper)


def _with_channels(image: np.ndarray) -> np.ndarray:
    """OpenCV drops the last axis of one-channel images; put it back."""
    return image if image.ndim == 3 else image[:, :, None]


def random_resized_crop_box(
    height: int, width: int, scale: Range, ratio: Range, draws: Sequence[float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop, as torchvision's RandomResizedCrop draws it.

    Args:
        height, width: of the image.
        scale: range of the crop's share of the image's area.
        ratio: range of width over height; log-uniform.
        draws: CROP_DRAWS numbers, uniform in [0, 1).

    Ten attempts, then the largest central crop whose ratio is in range.
    """
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for attempt in range(0, CROP_DRAWS, 4):
        u_area, u_ratio, u_top, u_left = draws[attempt : attempt + 4]
        area = height * width * (scale[0] + u_area * (scale[1] - scale[0]))
        aspect = math.exp(log_ratio[0] + u_ratio * (log_ratio[1] - log_ratio[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w
    if width / height < ratio[0]:
        w, h = width, min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w, h = min(width, round(height * ratio[1])), height
    else:
        w, h = width, height
    w, h = max(w, 1), max(h, 1)
    return (height - h) // 2, (width - w) // 2, h, w


def safe_reduction(height: int, width: int, size: int, scale: Range, ratio: Range) -> int:
    """The largest of 1, 2, 4 and 8 by which an image can shrink and still hold `size` pixels along any crop's side.

    The shortest side that `random_resized_crop_box` can choose is that of the smallest, most elongated crop, or that of
    the image.
    """
    elongation = max(1 / ratio[0], ratio[1])
    shortest = min(math.sqrt(height * width * scale[0] / elongation), height, width)
    return next((factor for factor in (8, 4, 2) if shortest >= factor * size), 1)


def resized_crop(
    image: np.ndarray, box: tuple[int, int, int, int], height: int, width: int, antialias: bool = True
) -> np.ndarray:
    """The part `box` = (top, left, height, width) of `image`, resized; nothing outside the box contributes."""
    top, left, h, w = box
    return resize(image[top : top + h, left : left + w], height, width, antialias)


def resize_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """`image` with its shorter side at `side` pixels, the longer one in proportion, rounded down (torchvision)."""
    height, width = image.shape[:2]
    if height <= width:
        return resize(image, side, int(side * width / height))
    return resize(image, int(side * height / width), side)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The central size x size pixels of an image that is at least as large."""
    height, width = image.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def horizontal_flip(image: np.ndarray) -> np.ndarray:
    return _with_channels(cv2.flip(image, 1))
