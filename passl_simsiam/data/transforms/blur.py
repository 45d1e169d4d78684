"""Gaussian blur as Pillow does it."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """`image` uint8 [h, w, c] blurred with standard deviation `sigma` pixels; edge pixels are repeated outwards.

    What Pillow calls the radius of GaussianBlur is sigma: it runs three box filters whose variances add up to
    sigma**2. The Gaussian here is cut at three sigma, where OpenCV's default for uint8 would choose its own width.
    """
    kernel = _kernel(round(sigma, 2))
    if len(kernel) == 1:
        return image
    blurred = cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
    return blurred if blurred.ndim == 3 else blurred[:, :, None]


@lru_cache(maxsize=512)
def _kernel(sigma: float) -> np.ndarray:
    """Normalised taps, float32 [2 * ceil(3 * sigma) + 1]; a single one where the next is below half a grey level."""
    radius = math.ceil(3 * sigma)
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps.sum()
    return (taps if taps[radius] < 1 - 1 / 512 else np.ones(1)).astype(np.float32)
