"""Accuracies as fractions of 1."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


def topk_accuracy(scores: Array, labels: Array, k: int = 1) -> float:
    """Share of samples whose label is among the `k` best-scored classes.

    Of equal scores the lower class counts as the better one, so that constant scores do not look like a perfect
    classifier. A NaN score of the label counts as wrong. A `k` above the number of classes gives 1.

    Args:
        scores: float [n, C].
        labels: int [n], 0 <= label < C.
        k: at least 1.

    Raises:
        ValueError: no samples, or shapes that do not fit.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} do not fit [n, C] and [n], n > 0")
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return float(((rank < k) & ~np.isnan(own[:, 0])).mean())


def mean_per_class_accuracy(predictions: Array, labels: Array) -> float:
    """Mean over the classes that occur in `labels` of the accuracy within the class (balanced accuracy).

    The custom on data sets with classes of unequal size (Caltech-101, Oxford Pets, Flowers).

    Args:
        predictions: int [n].
        labels: int [n], not negative.
    """
    if predictions.shape != labels.shape or not len(labels):
        raise ValueError(f"predictions {predictions.shape} and labels {labels.shape} do not fit [n] and [n], n > 0")
    count = np.bincount(labels)
    correct = np.bincount(labels, weights=predictions == labels)
    return float((correct[count > 0] / count[count > 0]).mean())


class Chance(NamedTuple):
    """What an accuracy must exceed to mean anything, fractions of 1.

    Attributes:
        rate: the expected top-1 of always naming the most frequent class, the best that knows nothing of the images.
        bound: what a classifier of that accuracy exceeds in one of a hundred such test sets only.
    """

    rate: float
    bound: float


def chance_level(labels: Array) -> Chance:
    """The top-1 of guessing, and its upper binomial bound (99 %), for a test set with `labels`, int [n], n > 0."""
    from scipy.stats import binom

    rate = float(np.bincount(labels).max() / len(labels))
    return Chance(rate, float(binom.ppf(0.99, len(labels), rate) / len(labels)))
