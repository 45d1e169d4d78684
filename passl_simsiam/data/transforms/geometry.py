"""Crops, and resizing as Pillow does it: bilinear, antialiased when shrinking."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

Range = tuple[float, float]

# Uniform numbers that `random_resized_crop_box` takes: four for each of torchvision's ten attempts.
CROP_DRAWS = 40

# An axis that shrinks by this factor or more is halved first.
_HALVE_FROM = 2.2
# Prefilters of a smaller variance (in squared pixels) change nothing that is visible in 8 bits.
_MIN_VARIANCE = 0.03


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`image` uint8 [h, w, c] at `height` x `width`.

    Pillow's bilinear filter is a triangle as wide as the shrinking factor s (half-width s source pixels, variance
    s**2 / 6). OpenCV's INTER_LINEAR is always a triangle of half-width 1 and aliases, its INTER_AREA is exact but many
    times slower unless the factor is an integer. So: an axis that shrinks much is halved by INTER_AREA (its fast case),
    and a three-tap filter brings what is left to Pillow's variance before INTER_LINEAR samples it.
    """
    extents = [float(image.shape[0]), float(image.shape[1])]
    taps = []
    for axis, target in enumerate((height, width)):
        halvings = max(0, math.ceil(math.log2(extents[axis] / target / _HALVE_FROM) + 1e-9))
        for _ in range(halvings):
            image = _halve(image, axis)
        extents[axis] /= 2**halvings
        taps.append(_prefilter(extents[axis] / target, halvings))
    if len(taps[0]) > 1 or len(taps[1]) > 1:
        image = _with_channels(cv2.sepFilter2D(image, -1, taps[1], taps[0], borderType=cv2.BORDER_REPLICATE))
    if image.shape[0] == extents[0] and image.shape[1] == extents[1]:
        return _with_channels(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    # Padding to an even side made the array larger than the picture in it: resize by the exact factors, then cut.
    scaled = cv2.resize(image, None, fx=width / extents[1], fy=height / extents[0], interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(_with_channels(scaled)[:height, :width])


def _halve(image: np.ndarray, axis: int) -> np.ndarray:
    height, width = image.shape[:2]
    odd = image.shape[axis] % 2
    if odd:
        image = cv2.copyMakeBorder(image, 0, odd * (1 - axis), 0, odd * axis, cv2.BORDER_REPLICATE)
    sides = (width, (height + 1) // 2) if axis == 0 else ((width + 1) // 2, height)
    return _with_channels(cv2.resize(image, sides, interpolation=cv2.INTER_AREA))


def _prefilter(scale: float, halvings: int) -> np.ndarray:
    """Taps whose variance is what Pillow's triangle has beyond that of the linear interpolation and of the halvings."""
    variance = (scale**2 - 1) / 6 - (1 - 0.25**halvings) / 12
    if variance < _MIN_VARIANCE:
        return np.ones(1, np.float32)
    return np.array([variance / 2, 1 - variance, variance / 2], np.float32)


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


def resized_crop(image: np.ndarray, box: tuple[int, int, int, int], height: int, width: int) -> np.ndarray:
    """The part `box` = (top, left, height, width) of `image`, resized; nothing outside the box contributes."""
    top, left, h, w = box
    return resize(image[top : top + h, left : left + w], height, width)


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
