"""Colour operations as torchvision applies them to Pillow images, on uint8 [height, width, 3] RGB.

Brightness, contrast and saturation are affine maps of a pixel's (r, g, b), clipped to 0..255. Pillow truncates where
OpenCV rounds, hence _TRUNCATE, a little above -1/2 so that a factor of 1 changes nothing.
"""

from __future__ import annotations

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
    """Turn the hue of HSV by `shift` of the colour circle, in [-0.5, 0.5].

    A third of the circle is a cycle of the channels. The rest, at most a sixth either way, moves each channel along the
    circle's ramps: with the next channel of the cycle and the one after it (the previous one for a negative turn),

        x + (high - step if after <= next else low + step) - next, clipped to low..high,

    where high and low are the pixel's largest and smallest value and step is their difference times the turn in sixths.
    No pixel is converted to HSV: this is faster, and exact to half a level, where 8 bits of hue are not.
    """
    turn = _pillow_turn(shift)
    thirds = round(3 * turn)
    sixths = 6 * turn - 2 * thirds
    height, width = image.shape[:2]
    planes = cv2.split(image)
    red, green, blue = (planes[(channel - thirds) % 3] for channel in range(3))
    cycle = np.concatenate((red, green, blue, red, green))
    values, following, after = cycle[: 3 * height], cycle[height : 4 * height], cycle[2 * height :]
    if sixths < 0:
        following, after = after, following
    high = cv2.max(cv2.max(red, green), blue)
    low = cv2.min(cv2.min(red, green), blue)
    step = cv2.convertScaleAbs(cv2.subtract(high, low), alpha=abs(sixths))
    falling, rising = cv2.subtract(high, step), cv2.add(low, step)
    # uint8 masks are 0 or 255, so that this chooses between the two; all in place, for fresh memory is slow.
    chosen = cv2.compare(after, following, cv2.CMP_LE).reshape(3, height, width)
    chosen &= rising ^ falling
    chosen ^= rising
    anchor = chosen.reshape(3 * height, width)
    moved = cv2.subtract(anchor, following)
    cv2.add(values, moved, moved)
    cv2.subtract(following, anchor, anchor)
    cv2.subtract(moved, anchor, moved)
    channels = moved.reshape(3, height, width)
    np.minimum(channels, high, out=channels)
    np.maximum(channels, low, out=channels)
    return cv2.merge(list(channels))


def _pillow_turn(shift: float) -> float:
    """Pillow stores hues as whole steps of 255 a circle and cuts instead of rounding, which costs most of a step."""
    return (int(shift * 255) - 0.75) / 255


def grayscale(image: np.ndarray) -> np.ndarray:
    """The grey level, [height, width, 1]."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]


def repeat_grey(image: np.ndarray) -> np.ndarray:
    """[height, width, 1] repeated over three channels."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def solarize(image: np.ndarray, threshold: int = 128) -> np.ndarray:
    """Invert all values at or above `threshold`; any number of channels."""
    return np.where(image < threshold, image, 255 - image).astype(np.uint8)
