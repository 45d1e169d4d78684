"""The published recipes for the random views of natural images, as named presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import numpy as np

from passl_simsiam.data.transforms import blur, color, geometry
from passl_simsiam.data.transforms.checks import check_parameters, require_rgb
from passl_simsiam.data.transforms.geometry import CROP_DRAWS, Range
from passl_simsiam.registry import TRANSFORMS

_ORDERS = list(permutations(range(4)))
# Uniform numbers that a view takes after those of its crop: seven decisions and four strengths.
_DRAWS = 11


@dataclass(frozen=True)
class RandomViews:
    """Two random views: crop, colour jitter, greyscale, blur, solarization, flip, in this order.

    Every field but `size` is the range or the probability of torchvision's transform of that name. The jitter applies
    its four operations in random order. An operation with strength or probability 0 is left out.
    """

    num_views: ClassVar[int] = 2

    size: int
    scale: Range
    ratio: Range = (3 / 4, 4 / 3)
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: Range = (0.1, 2.0)
    solarize_probability: float = 0.0
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        check_parameters(self)

    def __call__(self, image: np.ndarray, rngs: Sequence[np.random.Generator]) -> list[np.ndarray]:
        """Two arrays uint8 [size, size, c]. Raises UserError when c is not 3 and an operation needs RGB."""
        require_rgb(self, image.shape[2])
        return [self.view(image, rng, self.blur_probability, self.solarize_probability) for rng in rngs]

    def reduction(self, height: int, width: int) -> int:
        """How much smaller a height x width JPEG file may be decoded without enlarging any crop (decode.Reduction)."""
        return geometry.safe_reduction(height, width, self.size, self.scale, self.ratio)

    def view(self, image: np.ndarray, rng: np.random.Generator, blurred: float, solarized: float) -> np.ndarray:
        """One view; `blurred` and `solarized` are the two probabilities that recipes vary between views."""
        # All numbers are drawn at once: it is faster, and a decision never moves those of the operations after it.
        draws = rng.random(CROP_DRAWS + _DRAWS).tolist()
        jitter, order, grey, blurry, sigma, sun, flip, *strengths = draws[CROP_DRAWS:]
        box = geometry.random_resized_crop_box(image.shape[0], image.shape[1], self.scale, self.ratio, draws)
        sigma = _within(self.blur_sigma, sigma) if blurry < blurred else 0.0
        merged = geometry.merged_blur(box, self.size, sigma)
        view = geometry.resized_crop(image, box, self.size, self.size, antialias=merged is None)
        if jitter < self.jitter_probability:
            view = self._jitter(view, order, strengths)
        is_grey = grey < self.grayscale_probability
        if is_grey:
            view = color.grayscale(view)  # one channel until the end: less to blur
        if sigma:
            view = blur.gaussian_blur(view, *(merged or (sigma, sigma)))
        if sun < solarized:
            view = color.solarize(view)
        if flip < self.flip_probability:
            view = geometry.horizontal_flip(view)
        return color.repeat_grey(view) if is_grey else view

    def _jitter(self, view: np.ndarray, order: float, draws: Sequence[float]) -> np.ndarray:
        """Brightness, contrast, saturation and hue by the uniform numbers `draws`, in the order chosen by `order`."""
        for operation in _ORDERS[int(order * len(_ORDERS))]:
            draw = draws[operation]
            if operation == 0 and self.brightness:
                view = color.adjust_brightness(view, _factor(self.brightness, draw))
            elif operation == 1 and self.contrast:
                view = color.adjust_contrast(view, _factor(self.contrast, draw))
            elif operation == 2 and self.saturation:
                view = color.adjust_saturation(view, _factor(self.saturation, draw))
            elif operation == 3 and self.hue:
                view = color.adjust_hue(view, _within((-self.hue, self.hue), draw))
        return view


def _within(bounds: Range, uniform: float) -> float:
    return bounds[0] + uniform * (bounds[1] - bounds[0])


def _factor(strength: float, uniform: float) -> float:
    """A factor in [max(0, 1 - strength), 1 + strength]."""
    return _within((max(0.0, 1 - strength), 1 + strength), uniform)


@TRANSFORMS.register
@dataclass(frozen=True)
class MoCoV2(RandomViews):
    """MoCo v2's augmentation (Chen et al. 2020), which SimSiam uses for ImageNet (Chen and He 2021, section 3)."""

    size: int = 224
    scale: Range = (0.2, 1.0)


@TRANSFORMS.register
@dataclass(frozen=True)
class SimCLR(RandomViews):
    """SimCLR's augmentation for ImageNet (Chen et al. 2020, appendix A): smaller crops, colour of strength 1."""

    size: int = 224
    scale: Range = (0.08, 1.0)
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2


@TRANSFORMS.register
@dataclass(frozen=True)
class CIFAR(RandomViews):
    """SimSiam's augmentation for CIFAR (Chen and He 2021, appendix D): that for ImageNet without blur."""

    size: int = 32
    scale: Range = (0.2, 1.0)
    blur_probability: float = 0.0


@TRANSFORMS.register
@dataclass(frozen=True)
class BYOL(RandomViews):
    """BYOL's asymmetric augmentation (Grill et al. 2020, table 6).

    The first view is always blurred and never solarized; the second takes the two probabilities named second_.
    """

    size: int = 224
    scale: Range = (0.08, 1.0)
    saturation: float = 0.2
    blur_probability: float = 1.0
    second_blur_probability: float = 0.1
    second_solarize_probability: float = 0.2

    def __call__(self, image: np.ndarray, rngs: Sequence[np.random.Generator]) -> list[np.ndarray]:
        require_rgb(self, image.shape[2])
        first, second = rngs
        return [
            self.view(image, first, self.blur_probability, self.solarize_probability),
            self.view(image, second, self.second_blur_probability, self.second_solarize_probability),
        ]
