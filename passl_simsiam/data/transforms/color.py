"""Colour operations as torchvision applies them to Pillow images, on uint8 [height, width, 3] RGB.

Brightness, contrast and saturation are affine maps of a pixel's (r, g, b), clipped to 0..255. Pillow truncates where
OpenCV rounds, hence _TRUNCATE, a little above -1/2 so that a factor of 1 changes nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

_TRUNCATE = -0.499
# ITU-R 601 luma, Pillow's "L" and OpenCV's grey.
_LUMA = (0.299, 0.587, 0.114)
# OpenCV applies affine maps to uint8 in 10-bit fixed point.
_UNIT = 1024
# Affine maps [3, 4] of (r, g, b, 1): to itself, and to a constant of one.
_IDENTITY = np.eye(3, 4, dtype=np.float32)
_ONE = np.array([[0.0, 0.0, 0.0, 1.0]] * 3, np.float32)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """factor * image; any number of channels."""
    return _scale(image, factor, 0.0)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """The blend factor * image + (1 - factor) * m, m the image's mean grey level, rounded.

    Without three channels, m is the mean over all of them.
    """
    if image.shape[2] == 3:
        red, green, blue, _ = cv2.mean(image)
        mean = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    else:
        mean = float(image.mean())
    return _scale(image, factor, (1 - factor) * int(mean + 0.5))


def _scale(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """factor * image + offset."""
    if image.shape[2] == 3:
        return cv2.transform(image, factor * _IDENTITY + (offset + _TRUNCATE) * _ONE)
    scaled = cv2.addWeighted(image, factor, image, 0.0, offset + _TRUNCATE)
    return scaled if scaled.ndim == 3 else scaled[:, :, None]


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """The blend factor * image + (1 - factor) * grey(image)."""
    red, green, blue = (round((1 - factor) * weight * _UNIT) / _UNIT for weight in _LUMA)
    own = 1 - (red + green + blue)  # each row adds up to exactly 1, so that grey stays grey
    rows = [
        [red + own, green, blue, _TRUNCATE],
        [red, green + own, blue, _TRUNCATE],
        [red, green, blue + own, _TRUNCATE],
    ]
    return cv2.transform(image, np.array(rows, np.float32))


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of the colour circle, in [-0.5, 0.5].

    OpenCV's _FULL conversions divide the circle into 256 steps, so that uint8 arithmetic wraps as it should. Pillow
    stores whole steps of 255 a circle and cuts instead of rounding, which turns every colour back by most of a step.
    """
    steps = (int(shift * 255) - 1) % 256
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    height, width = hsv.shape[:2]
    together = math.gcd(height, 32)  # rows: long ones are added fast
    rows = hsv.reshape(height // together, -1)
    np.add(rows, _hue_steps(together * width, steps), out=rows)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


@lru_cache(maxsize=128)
def _hue_steps(pixels: int, steps: int) -> np.ndarray:
    """`steps` on the hue of each pixel, 0 on its saturation and value, uint8 [3 * pixels]."""
    return np.tile(np.array([steps, 0, 0], np.uint8), pixels)


def grayscale(image: np.ndarray) -> np.ndarray:
    """The grey level, [height, width, 1]."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]


def repeat_grey(image: np.ndarray) -> np.ndarray:
    """[height, width, 1] repeated over three channels."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def solarize(image: np.ndarray, threshold: int = 128) -> np.ndarray:
    """Invert all values at or above `threshold`; any number of channels."""
    return np.where(image < threshold, image, 255 - image).astype(np.uint8)
