"""Signs of collapse against scipy, against definitions written out, and on inputs whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import svdvals
from scipy.spatial.distance import pdist
from scipy.stats import entropy
from sklearn.datasets import load_digits
from sklearn.preprocessing import normalize

from passl_simsiam.evaluation import health


def features(kind):
    if kind == "digits":
        return load_digits().data[:400].astype(np.float32)
    return np.random.default_rng(0).normal(size=(300, 128) if kind == "tall" else (64, 256)).astype(np.float32)


KINDS = pytest.mark.parametrize("kind", ["tall", "wide", "digits"])


@KINDS
def test_std_is_that_of_normalised_features(kind):
    z = features(kind)
    assert health.feature_std(z) == pytest.approx(np.std(normalize(z.astype(float)), axis=0).mean(), rel=1e-12)
    assert health.channel_std(z).shape == z.shape[1:]


def test_std_of_even_directions_and_of_a_collapse():
    z = np.random.default_rng(0).normal(size=(4096, 512))
    assert health.feature_std(z) == pytest.approx(1 / np.sqrt(512), rel=0.01)
    assert health.feature_std(np.tile(z[:1], (100, 1))) == pytest.approx(0, abs=1e-15)


@KINDS
def test_effective_rank_is_the_exponential_of_the_entropy_of_singular_values(kind):
    x = features(kind)
    assert health.effective_rank(x) == pytest.approx(np.exp(entropy(svdvals(x.astype(float)))), rel=1e-4)


def test_effective_rank_of_known_matrices():
    assert health.effective_rank(np.eye(7, 20)) == pytest.approx(7)
    constant = np.ones((200, 64)) + 1e-4 * np.random.default_rng(0).normal(size=(200, 64))
    assert 1 <= health.effective_rank(constant) < 1.1
    assert health.effective_rank(np.zeros((5, 3))) == 0


@KINDS
def test_uniformity_is_over_all_pairs(kind):
    z = features(kind)
    expected = np.log(np.exp(-2 * pdist(normalize(z.astype(float)), "sqeuclidean")).mean())
    assert health.uniformity(z) == pytest.approx(expected, rel=1e-9)
    assert health.uniformity(np.ones((10, 4))) == pytest.approx(0, abs=1e-12)


@KINDS
def test_alignment_and_cosine_say_the_same(kind):
    a = features(kind)
    b = a + 0.3 * np.random.default_rng(1).normal(size=a.shape)
    distance = [
        np.sum((x / np.linalg.norm(x) - y / np.linalg.norm(y)) ** 2) for x, y in zip(a.astype(float), b, strict=True)
    ]
    assert health.alignment(a, b) == pytest.approx(np.mean(distance), rel=1e-9)
    assert health.mean_cosine(a, b) == pytest.approx(1 - np.mean(distance) / 2, rel=1e-9)
    assert health.alignment(a, a * 3) == pytest.approx(0, abs=1e-12)
