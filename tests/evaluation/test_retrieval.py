"""Precision of retrieval against scikit-learn's neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from passl_simsiam.evaluation.retrieval import precision_at


def real():
    pixels, labels = load_digits(return_X_y=True)
    return pixels[:1200].astype(np.float32), labels[:1200], pixels[1200:].astype(np.float32), labels[1200:]


def random():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(500, 8)).astype(np.float32), rng.integers(0, 3, 500)
    return features[:400], labels[:400], features[400:], labels[400:]


@pytest.mark.parametrize("data", [real, random])
def test_precision_is_scikit_learns(data) -> None:
    bank, labels, queries, truth = data()
    found = precision_at(bank, labels, queries, truth, (1, 5, 10))
    index = (
        NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute")
        .fit(bank)
        .kneighbors(queries, return_distance=False)
    )
    for k in (1, 5, 10):
        expected = np.mean([np.mean(labels[row[:k]] == own) for row, own in zip(index, truth, strict=True)])
        assert found[k] == pytest.approx(expected, abs=1e-9 + 1 / len(queries) / k)  # one tie may fall otherwise


def test_more_neighbours_than_images_have_no_precision() -> None:
    bank, queries = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[:1]
    assert precision_at(bank, np.array([2, 0, 0, 0]), queries, np.array([2]), (1, 4, 5)) == {1: 1.0, 4: 0.25}
    with pytest.raises(ValueError, match="k of"):
        precision_at(bank, np.zeros(4, int), queries, np.zeros(1, int), (5,))
