"""Features of batches, in order, from arrays that the loader uses again."""

from __future__ import annotations

import numpy as np
import pytest

from passl_simsiam.evaluation.features import extract, raw_pixels


def batches(sizes):
    """Batches that share their arrays, as a loader's may."""
    image = np.empty((max(sizes), 4, 4, 3), np.uint8)
    label, index = np.empty(max(sizes), np.int64), np.empty(max(sizes), np.int64)
    start = 0
    for size in sizes:
        image[:size] = np.arange(start, start + size)[:, None, None, None]
        index[:size] = np.arange(start, start + size)
        label[:size] = index[:size] % 3
        yield {"views": [image[:size], 255 - image[:size]], "label": label[:size], "index": index[:size]}
        start += size


@pytest.mark.parametrize("count", [None, 18])
def test_features_labels_and_indices_stay_together(count):
    found = extract(raw_pixels, batches([8, 8, 2]), count=count)
    assert found.features.shape == (18, 48)
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.indices, np.arange(18))
    np.testing.assert_array_equal(found.labels, np.arange(18) % 3)
    np.testing.assert_allclose(found.features * 255, np.repeat(np.arange(18)[:, None], 48, axis=1), atol=1e-4)


def test_a_paddle_layer_can_encode():
    paddle = pytest.importorskip("paddle")

    def encode(images):
        return paddle.to_tensor(images).astype("float32").mean(axis=[1, 2])

    found = extract(encode, batches([5, 4]))
    np.testing.assert_allclose(found.features, np.repeat(np.arange(9.0)[:, None], 3, axis=1))


@pytest.mark.parametrize(("sizes", "count"), [([4, 4], 9), ([4, 4], 7)])
def test_a_wrong_count_is_an_error(sizes, count):
    with pytest.raises(ValueError, match=str(count)):
        extract(raw_pixels, batches(sizes), count=count)


def test_no_batches_are_an_error():
    with pytest.raises(ValueError, match="0 images"):
        extract(raw_pixels, [])
