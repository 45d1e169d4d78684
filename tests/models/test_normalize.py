"""Normalisation of uint8 batches."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl_simsiam.models.normalize import Normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_it_is_the_usual_formula_and_channels_first() -> None:
    images = np.random.default_rng(0).integers(0, 256, [2, 4, 5, 3], dtype=np.uint8)
    expected = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    result = Normalize(MEAN, STD)(paddle.to_tensor(images))
    assert result.dtype == paddle.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_grey_images() -> None:
    images = paddle.full([1, 2, 2, 1], 255, dtype="uint8")
    assert Normalize([0.5], [0.25])(images).numpy() == pytest.approx(np.full([1, 1, 2, 2], 2.0))


def test_float_images_and_other_channels_are_refused() -> None:
    normalize = Normalize(MEAN, STD)
    with pytest.raises(ValueError, match="uint8 images"):
        normalize(paddle.zeros([1, 2, 2, 3]))
    with pytest.raises(ValueError, match="uint8 images"):
        normalize(paddle.zeros([1, 3, 2, 2], dtype="uint8"))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,))])
def test_impossible_statistics_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="normalise"):
        Normalize(mean, std)
