"""The presets: what they promise of shape, randomness, order and refusals. Their distribution is tested elsewhere."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from passl_simsiam.data.keys import generator
from passl_simsiam.data.transforms import blur, color, geometry
from passl_simsiam.data.transforms.digits import DigitsViews
from passl_simsiam.data.transforms.evaluation import RandomResizedCropFlip, Resize, ResizeCenterCrop
from passl_simsiam.data.transforms.views import BYOL, CIFAR, MoCoV2, SimCLR
from passl_simsiam.errors import UserError
from passl_simsiam.registry import TRANSFORMS

PRESETS = [MoCoV2, SimCLR, BYOL, CIFAR, DigitsViews, RandomResizedCropFlip, Resize, ResizeCenterCrop]


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth colours with some texture."""
    y, x = np.mgrid[0:height, 0:width]
    layers = [127 + 90 * np.sin(x / (9 + 3 * k) + k) * np.cos(y / (7 + k)) for k in range(channels)]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, channels))
    return np.clip(np.stack(layers, axis=2) + noise, 0, 255).astype(np.uint8)


def rngs(transform: Any, index: int = 0) -> list[np.random.Generator]:
    return [generator(0, 0, index, view) for view in range(transform.num_views)]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(75, 100), (1, 1), (3, 200), (200, 2), (32, 32)])
def test_shapes_and_repeatability(preset: Any, shape: tuple[int, int]) -> None:
    transform = pickle.loads(pickle.dumps(preset(size=24)))
    image = picture(*shape)
    before = image.copy()
    for index in range(5):
        views = transform(image, rngs(transform, index))
        again = transform(image, rngs(transform, index))
        assert len(views) == transform.num_views
        for view, other in zip(views, again, strict=True):
            assert view.shape == (24, 24, 3)
            assert view.dtype == np.uint8
            assert view.flags.c_contiguous
            np.testing.assert_array_equal(view, other)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", ["MoCoV2", "SimCLR", "BYOL", "CIFAR", "DigitsViews"])
def test_presets_are_in_the_registry_and_their_views_differ(name: str) -> None:
    transform = TRANSFORMS.get(name)(**TRANSFORMS.check(name, {"size": 32}, "transform"))
    first, second = transform(picture(60, 80), rngs(transform))
    assert np.abs(first.astype(int) - second).mean() > 3


def test_each_view_depends_on_its_own_generator_alone() -> None:
    transform, image = MoCoV2(size=32), picture(60, 80)
    first, _ = transform(image, [generator(0, 0, 0, 0), generator(0, 0, 0, 1)])
    again, _ = transform(image, [generator(0, 0, 0, 0), generator(9, 9, 9, 9)])
    np.testing.assert_array_equal(first, again)


def test_a_switched_off_operation_leaves_the_others_as_they_were() -> None:
    image = picture(60, 80)
    plain = MoCoV2(size=32, blur_probability=0, flip_probability=0)
    flipped = MoCoV2(size=32, blur_probability=0, flip_probability=1)
    for index in range(10):
        for view, mirror in zip(plain(image, rngs(plain, index)), flipped(image, rngs(flipped, index)), strict=True):
            np.testing.assert_array_equal(view[:, ::-1], mirror)


def test_probabilities() -> None:
    """Greyscale in 20 % of the views and flips in half of them, to four standard errors."""
    image, count = picture(40, 40), 2000
    transform = MoCoV2(size=8)
    views = [view for index in range(count // 2) for view in transform(image, rngs(transform, index))]
    grey = np.mean([np.ptp(view, axis=2).max() == 0 for view in views])
    assert abs(grey - 0.2) < 4 * np.sqrt(0.2 * 0.8 / count)
    still = MoCoV2(
        size=8, scale=(1, 1), ratio=(1, 1), jitter_probability=0, grayscale_probability=0, blur_probability=0
    )
    whole = geometry.resize(image, 8, 8)
    views = [view for index in range(count // 2) for view in still(image, rngs(still, index))]
    flips = np.mean([not np.array_equal(view, whole) for view in views])
    assert abs(flips - 0.5) < 4 * np.sqrt(0.25 / count)


def test_byol_blurs_the_first_view_and_solarizes_only_the_second() -> None:
    image = picture(64, 64)
    plain = {
        "scale": (1, 1),
        "ratio": (1, 1),
        "jitter_probability": 0,
        "grayscale_probability": 0,
        "flip_probability": 0,
    }
    transform = BYOL(size=64, blur_sigma=(2, 2), **plain)
    sharp, solarized = geometry.resize(image, 64, 64), 0
    for index in range(100):
        first, second = transform(image, rngs(transform, index))
        np.testing.assert_array_equal(first, blur.gaussian_blur(sharp, 2.0))
        solarized += second.max() < 200
    assert 5 <= solarized <= 40


def test_digits_views_are_not_mirrored() -> None:
    """The bright left half of a picture stays left of the dark one, whatever the crop and the rotation."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 200
    transform = DigitsViews()
    for index in range(200):
        for view in transform(image, rngs(transform, index)):
            left, right = view[4:12, :8].mean(), view[4:12, 8:].mean()
            assert left > right
            assert np.ptp(view, axis=2).max() == 0


def test_digits_view_without_any_change_is_the_image() -> None:
    image = picture(16, 16)
    still = DigitsViews(size=16, scale=(1, 1), ratio=(1, 1), rotation=0, shear=0, shift=0, brightness=0, noise=0)
    np.testing.assert_array_equal(still(image, rngs(still))[0], image)


def test_color_operations_refuse_what_is_not_rgb() -> None:
    transform = MoCoV2(size=16)
    with pytest.raises(UserError, match=r"5 channels.*grayscale_probability: 0, saturation: 0, hue: 0"):
        transform(picture(20, 20, 5), rngs(transform))


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 12])
@pytest.mark.parametrize("size", [16, 40])
def test_other_channels_pass_without_color_operations(channels: int, size: int) -> None:
    for preset in (MoCoV2, BYOL):
        transform = preset(size=size, grayscale_probability=0, saturation=0, hue=0)
        for index in range(20):
            for view in transform(picture(90, 75, channels), rngs(transform, index)):
                assert view.shape == (size, size, channels)
    for single in (DigitsViews(size=size), RandomResizedCropFlip(size=size), ResizeCenterCrop(size=size, resize=size)):
        assert single(picture(90, 75, channels), rngs(single))[0].shape == (size, size, channels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"scale": (0.5, 1.2)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"hue": 0.6}, "hue"),
        ({"brightness": -0.1}, "brightness"),
        ({"flip_probability": 1.5}, "flip_probability"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma"),
    ],
)
def test_parameters_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MoCoV2(**arguments)


def test_resize_below_size() -> None:
    with pytest.raises(UserError, match="resize is 200"):
        ResizeCenterCrop(size=224, resize=200)


def test_crop_boxes_follow_scale_and_ratio() -> None:
    rng = np.random.default_rng(0)
    for height, width in [(375, 500), (500, 375), (64, 64)]:
        for _ in range(500):
            draws = rng.random(geometry.CROP_DRAWS).tolist()
            top, left, h, w = geometry.random_resized_crop_box(height, width, (0.2, 1.0), (3 / 4, 4 / 3), draws)
            assert 0 <= top <= height - h
            assert 0 <= left <= width - w
            assert 0.18 <= h * w / (height * width) <= 1
            assert 0.72 <= w / h <= 1.4


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 1000, (10, 13)), (1000, 10, (13, 10)), (1, 1, (1, 1))])
def test_crop_falls_back_to_the_centre_of_narrow_images(height: int, width: int, expected: tuple[int, int]) -> None:
    box = geometry.random_resized_crop_box(height, width, (0.9, 1.0), (3 / 4, 4 / 3), [0.5] * geometry.CROP_DRAWS)
    assert box[2:] == expected
    assert box[:2] == ((height - box[2]) // 2, (width - box[3]) // 2)


@pytest.mark.parametrize(("height", "width"), [(97, 131), (450, 450), (451, 449), (899, 1203), (5, 2000), (2000, 5)])
def test_resize_matches_an_exact_triangle_filter(height: int, width: int) -> None:
    """Pillow's bilinear filter in float64, written out. On smooth pictures the two agree closely."""
    image, size = picture(height, width), 64
    exact = _triangle_matrix(height, size) @ image.transpose(2, 0, 1) @ _triangle_matrix(width, size).T
    made = geometry.resize(image, size, size).transpose(2, 0, 1)
    assert np.abs(made - exact).mean() < 2.0
    assert abs(made.mean() - exact.mean()) < 0.5


def _triangle_matrix(length: int, target: int) -> np.ndarray:
    scale = length / target
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1)
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


def test_a_strong_blur_stands_for_antialiasing() -> None:
    """The short cut of the recipe makes nearly the same pixels as the two steps, even of a picture full of noise."""
    image, box, size = picture(420, 400), (0, 0, 420, 400), 224
    for sigma in (0.6, 1.0, 2.0):
        both = geometry.merged_blur(box, size, sigma)
        assert both is not None
        merged = blur.gaussian_blur(geometry.resized_crop(image, box, size, size, antialias=False), *both)
        steps = blur.gaussian_blur(geometry.resized_crop(image, box, size, size), sigma)
        assert np.abs(merged.astype(float) - steps).mean() < 1.5
    assert geometry.merged_blur(box, size, 0.5) is None
    assert geometry.merged_blur((0, 0, 224, 224), size, 1.0) is None
    assert geometry.merged_blur((0, 0, 900, 900), size, 1.0) is None


def test_reduction_never_enlarges_a_crop() -> None:
    rng = np.random.default_rng(0)
    transform = MoCoV2(size=100)
    assert [transform.reduction(side, side) for side in (300, 600, 1200, 2400)] == [1, 2, 4, 8]
    for side in (600, 1200, 2400):
        smaller = side // transform.reduction(side, side)
        for _ in range(300):
            draws = rng.random(geometry.CROP_DRAWS).tolist()
            box = geometry.random_resized_crop_box(smaller, smaller, transform.scale, transform.ratio, draws)
            assert min(box[2:]) >= 99
    assert transform.reduction(50, 100_000) == 1


def test_identities() -> None:
    image = picture(30, 40)
    np.testing.assert_array_equal(color.adjust_brightness(image, 1.0), image)
    np.testing.assert_array_equal(color.adjust_contrast(image, 1.0), image)
    np.testing.assert_array_equal(color.adjust_saturation(image, 1.0), image)
    np.testing.assert_array_equal(blur.gaussian_blur(image, 0.01), image)
    np.testing.assert_array_equal(geometry.resize(image, 30, 40), image)


def test_grey_stays_grey() -> None:
    """Else photographs without colour would get some, which the published recipe never gives them."""
    image = np.repeat(picture(40, 50)[..., :1], 3, axis=2)
    for factor in np.linspace(0, 2, 101).tolist():
        for adjust in (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation):
            assert np.ptp(adjust(image, factor), axis=2).max() == 0
        np.testing.assert_array_equal(color.adjust_saturation(image, factor), image)
        assert np.ptp(color.adjust_hue(image, factor / 2 - 0.5), axis=2).max() == 0
    for operation in (lambda x: blur.gaussian_blur(x, 1.3), lambda x: geometry.resize(x, 17, 23)):
        assert np.ptp(operation(image), axis=2).max() == 0


def test_hue_turns_red_to_green_in_a_third() -> None:
    red = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    turned = color.adjust_hue(red, 1 / 3)[0, 0].astype(int)
    assert np.abs(turned - (0, 200, 0)).max() <= 8  # whole steps of the circle, less one as in Pillow
    back = color.adjust_hue(np.full((4, 4, 3), (0, 200, 0), np.uint8), -1 / 3)[0, 0].astype(int)
    assert np.abs(back - (200, 0, 0)).max() <= 12


def test_solarize() -> None:
    image = np.array([[[0, 127, 128], [255, 200, 100]]], np.uint8)
    np.testing.assert_array_equal(color.solarize(image), [[[0, 127, 127], [0, 55, 100]]])
