"""Accuracies against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from passl_simsiam.evaluation.metrics import chance_level, mean_per_class_accuracy, topk_accuracy


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_topk_equals_scikit_learn(k):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(500, 10)).astype(np.float32), rng.integers(0, 10, 500)
    assert topk_accuracy(scores, labels, k) == pytest.approx(
        top_k_accuracy_score(labels, scores, k=k, labels=range(10)), abs=1e-12
    )


def test_topk_with_ties_counts_lower_classes_first():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 3, size=(400, 6)).astype(float), rng.integers(0, 6, 400)
    best = np.argsort(-scores, axis=1, kind="stable")
    for k in range(1, 7):
        assert topk_accuracy(scores, labels, k) == (best[:, :k] == labels[:, None]).any(axis=1).mean()


def test_constant_scores_are_no_perfect_classifier():
    labels = np.repeat(np.arange(10), 3)
    assert topk_accuracy(np.zeros((30, 10)), labels, 1) == pytest.approx(0.1)
    assert topk_accuracy(np.full((30, 10), np.nan), labels, 1) == 0


def test_k_above_the_number_of_classes_gives_one():
    assert topk_accuracy(np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 3, 5) == 1


def test_mean_per_class_equals_scikit_learn_on_unbalanced_classes():
    rng = np.random.default_rng(2)
    labels = rng.choice(8, 600, p=np.arange(8) / 28)  # class 0 never occurs
    predictions = np.where(rng.random(600) < 0.6, labels, rng.integers(0, 8, 600))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        expected = balanced_accuracy_score(labels, predictions)
    assert mean_per_class_accuracy(predictions, labels) == pytest.approx(expected, abs=1e-12)
    assert abs(expected - accuracy_score(labels, predictions)) > 1e-4  # the two do differ here


@pytest.mark.parametrize("call", [topk_accuracy, mean_per_class_accuracy])
def test_nothing_to_score_is_refused(call):
    with pytest.raises(ValueError, match="do not fit"):
        call(np.empty((0, 3)), np.empty(0, np.int64))


def test_chance_is_that_of_naming_the_most_frequent_class() -> None:
    even, uneven = np.arange(1000) % 10, np.repeat([0, 1], [900, 100])
    assert chance_level(even).rate == 0.1
    assert chance_level(uneven).rate == 0.9


def test_guesses_exceed_the_bound_once_in_a_hundred_sets() -> None:
    labels = np.arange(500) % 10
    guesses = np.random.default_rng(0).integers(0, 10, (40_000, 500), np.int8)
    above = ((guesses == labels).mean(axis=1) > chance_level(labels).bound).mean()
    assert 0.004 < above < 0.011
