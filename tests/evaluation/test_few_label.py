"""The table of few labels on real digits, against a plain scikit-learn run."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from passl_simsiam.evaluation.few_label import few_label_table

PIXELS, LABELS = load_digits(return_X_y=True)
TRAIN, TEST = PIXELS[:1400].astype(np.float32), PIXELS[1400:].astype(np.float32)
TRAIN_LABELS, TEST_LABELS = LABELS[:1400], LABELS[1400:]


def test_more_labels_help_and_a_better_representation_shows():
    oracle = np.eye(10)[TRAIN_LABELS], np.eye(10)[TEST_LABELS]
    table = few_label_table(
        {"pixels": (TRAIN, TEST), "oracle": oracle}, TRAIN_LABELS, TEST_LABELS, shots=(1, 10), draws=4
    )
    assert [row.shots for row in table] == [1, 10]
    assert all(row.accuracies["pixels"].shape == (4,) for row in table)
    means = [row.accuracies["pixels"].mean() for row in table]
    assert 0.4 < means[0] < 0.7 < 0.78 < means[1] < 0.9
    assert all((row.accuracies["oracle"] == 1).all() for row in table)


def test_all_labels_equal_a_plain_classifier():
    """With as many labels as every class has, the draw is no choice."""
    kept = np.concatenate([np.flatnonzero(label == TRAIN_LABELS)[:130] for label in range(10)])
    (row,) = few_label_table({"pixels": (TRAIN[kept], TEST)}, TRAIN_LABELS[kept], TEST_LABELS, shots=(130,), draws=1)
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(TRAIN[kept], TRAIN_LABELS[kept])
    assert row.accuracies["pixels"][0] == pytest.approx(plain.score(TEST, TEST_LABELS), abs=0.003)


def test_draws_are_those_of_the_seed_and_the_same_for_each_representation():
    same = {"a": (TRAIN, TEST), "b": (TRAIN, TEST)}
    first, second, other = (
        few_label_table(same, TRAIN_LABELS, TEST_LABELS, shots=(1,), draws=3, seed=seed)[0].accuracies
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first["a"], first["b"])
    np.testing.assert_array_equal(first["a"], second["a"])
    assert len(set(first["a"])) > 1
    assert (first["a"] != other["a"]).any()


def test_more_shots_than_the_smallest_class_has_give_no_row():
    table = few_label_table({"a": (TRAIN[:60], TEST)}, TRAIN_LABELS[:60], TEST_LABELS, shots=(1, 50), draws=1)
    assert [row.shots for row in table] == [1]


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="pixels: 1400"):
        few_label_table({"pixels": (TRAIN, TEST)}, TRAIN_LABELS[:-1], TEST_LABELS)
    with pytest.raises(ValueError, match="two classes"):
        few_label_table({"pixels": (TRAIN, TEST)}, np.zeros(1400, int), TEST_LABELS)
