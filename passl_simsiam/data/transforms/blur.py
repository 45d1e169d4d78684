"""Gaussian blur as Pillow does it."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

# OpenCV filters uint8 images in 8-bit fixed point.
_UNIT = 256


def gaussian_blur(image: np.ndarray, sigma: float, sigma_across: float | None = None) -> np.ndarray:
    """`image` uint8 [h, w, c] blurred with standard deviation `sigma` pixels; edge pixels are repeated outwards.

    What Pillow calls the radius of GaussianBlur is sigma. Pillow runs three "extended box" filters in a row, each with
    a third of the variance; this is their common kernel, which is shorter than a Gaussian cut at three sigma.
    `sigma_across` is the standard deviation along rows where that differs from the one along columns.
    """
    down = _kernel(round(sigma, 2))
    across = down if sigma_across is None else _kernel(round(sigma_across, 2))
    if len(down) == len(across) == 1:
        return image
    blurred = cv2.sepFilter2D(image, -1, across, down, borderType=cv2.BORDER_REPLICATE)
    return blurred if blurred.ndim == 3 else blurred[:, :, None]


@lru_cache(maxsize=512)
def _kernel(sigma: float) -> NDArray[np.float32]:
    """The taps for standard deviation `sigma`, odd in number.

    An extended box is 2 * whole + 1 pixels of weight 1 and, at each end, one of a weight below 1, which gives it any
    variance (Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering").
    """
    variance = sigma**2 / 3
    whole = int((math.sqrt(12 * variance + 1) - 1) / 2)
    end = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([end, *[1.0] * (2 * whole + 1), end])
    box /= box.sum()
    kernel = fixed_point(np.convolve(np.convolve(box, box), box))
    used = np.flatnonzero(kernel)
    return kernel[used[0] : used[-1] + 1]


def fixed_point(taps: NDArray[np.float64]) -> NDArray[np.float32]:
    """Symmetric taps as multiples of 1/256 that add up to exactly 1.

    OpenCV would round them itself, but to a sum that makes the image brighter or darker.
    """
    whole = np.rint(taps * _UNIT)
    whole[len(whole) // 2] += _UNIT - whole.sum()
    return (whole / _UNIT).astype(np.float32)
