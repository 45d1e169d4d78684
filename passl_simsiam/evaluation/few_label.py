"""How far a few labels go: a linear classifier on frozen features, against the same on raw pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from passl_simsiam.evaluation.standard import Standard

Array = np.ndarray[Any, Any]

PROTOCOL = "logistic regression (L2, C = 1) on features standardised over the unlabelled training set"


class FewLabelRow(NamedTuple):
    """One line of the table.

    Attributes:
        shots: labelled training samples a class.
        accuracies: for each representation, top-1 on the test set of each draw, fractions of 1, float64 [draws].
    """

    shots: int
    accuracies: dict[str, Array]


def few_label_table(
    representations: Mapping[str, tuple[Array, Array]],
    train_labels: Array,
    test_labels: Array,
    *,
    shots: Sequence[int] = (1, 5, 10, 50),
    draws: int = 5,
    seed: int = 0,
) -> list[FewLabelRow]:
    """Accuracy of a linear classifier trained on `shots` labelled samples a class.

    Each draw labels the same samples for every representation, so their scores can be compared pair by pair.

    Args:
        representations: by name, features of the training set, float [n, d], which may be a memory map, and of
            the test set, float [m, d].
        train_labels: int [n].
        test_labels: int [m].
        shots: samples a class; one that the smallest class does not have gets no row.
        draws: random choices of the labelled samples.
        seed: of the draws.

    Returns:
        A row for each of `shots`.

    Raises:
        ValueError: labels that do not fit the features, or a single class.
    """
    from sklearn.linear_model import LogisticRegression

    classes, counts = np.unique(train_labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs two classes at least, the labels hold {len(classes)}")
    scaled: dict[str, tuple[Standard, Array]] = {}
    for name, (train, test) in representations.items():
        if len(train) != len(train_labels) or len(test) != len(test_labels):
            raise ValueError(f"{name}: {len(train)}, {len(test)} rows, {len(train_labels)}, {len(test_labels)} labels")
        standard = Standard.of(train)
        scaled[name] = standard, standard(test)

    rows = []
    for shot in (shot for shot in shots if shot <= counts.min()):
        found: dict[str, list[float]] = {name: [] for name in scaled}
        for draw in range(draws):
            rng = np.random.default_rng((seed, shot, draw))
            chosen = [rng.choice(np.flatnonzero(train_labels == label), shot, replace=False) for label in classes]
            labelled = np.concatenate(chosen)
            for name, (standard, test) in scaled.items():
                few = standard(representations[name][0][labelled])
                classifier = LogisticRegression(C=1.0, max_iter=1000).fit(few, train_labels[labelled])
                found[name].append(float(classifier.score(test, test_labels)))
        rows.append(FewLabelRow(shot, {name: np.array(values) for name, values in found.items()}))
    return rows
