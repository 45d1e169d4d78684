"""Colour operations as torchvision applies them to Pillow images, on uint8 [height, width, 3] RGB.

Brightness, contrast and saturation are affine maps of a pixel's (r, g, b), clipped to 0..255. Pillow truncates where
OpenCV rounds, hence _TRUNCATE, a little above -1/2 so that a factor of 1 changes nothing.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

_TRUNCATE = -0.499
# ITU-R 601 luma, Pillow's "L" and OpenCV's grey.
_LUMA = np.array([0.299, 0.587, 0.114])


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """factor * image; any number of channels."""
    return _scale(image, factor, 0.0)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """The blend factor * image + (1 - factor) * m, m the image's mean grey level, rounded.

    Without three channels, m is the mean over all of them.
    """
    mean = float(_LUMA @ cv2.mean(image)[:3]) if image.shape[2] == 3 else float(image.mean())
    return _scale(image, factor, (1 - factor) * int(mean + 0.5))


def _scale(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
    scaled = cv2.addWeighted(image, factor, image, 0.0, offset + _TRUNCATE)
    return scaled if scaled.ndim == 3 else scaled[:, :, None]


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """The blend factor * image + (1 - factor) * grey(image)."""
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = (1 - factor) * _LUMA + factor * np.eye(3)
    matrix[:, 3] = _TRUNCATE
    return cv2.transform(image, matrix)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of the colour circle, in [-0.5, 0.5].

    OpenCV's _FULL conversions divide the circle into 256 steps, so that uint8 arithmetic wraps as it should; Pillow
    has 255 steps and truncates to them, so its shift is a whole number of 1/255 turns.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    steps = round(int(shift * 255) * 256 / 255) % 256
    rows = hsv.reshape(hsv.shape[0], -1)
    np.add(rows, _hue_row(hsv.shape[1], steps), out=rows)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


@lru_cache(maxsize=512)
def _hue_row(width: int, steps: int) -> np.ndarray:
    """`steps` on the hue of each pixel of a row, 0 on its saturation and value."""
    return np.tile(np.array([steps, 0, 0], np.uint8), width)


def grayscale(image: np.ndarray) -> np.ndarray:
    """Grey, repeated over the three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def solarize(image: np.ndarray, threshold: int = 128) -> np.ndarray:
    """Invert all values at or above `threshold`; any number of channels."""
    return np.where(image < threshold, image, 255 - image).astype(np.uint8)
