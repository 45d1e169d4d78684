"""Linear classifiers on features that are at hand: a sweep of candidates in one pass, and the exact optimum.

The sweep trains one linear softmax classifier for each pair of a learning rate and a weight decay, all in the same
steps: their weights lie side by side as [d, candidates x classes], so that one matrix product gives the logits of all
of them, and one their gradients. They never mix: a candidate that diverges loses alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from passl_simsiam.evaluation.standard import Standard

Array = np.ndarray[Any, Any]

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
DECAYS = (0.0, 1e-5, 1e-4, 1e-3)
EPOCHS, MOMENTUM = 100, 0.9
HELD_OUT = 0.1
WORKS = 0.01  # a rate works when its best candidate is within a point of the best of all


class Sweep(NamedTuple):
    """What `linear_sweep` found.

    Attributes:
        scores: of the chosen candidate, trained again on all training samples, float32 [m, C]: logits of the test set.
        rate, decay: the chosen candidate's.
        held_out: top-1 of every candidate on the held-out samples, float64 [rates, decays].
        rates, decays: what was tried.
    """

    scores: Array
    rate: float
    decay: float
    held_out: Array
    rates: tuple[float, ...]
    decays: tuple[float, ...]

    @property
    def working_rates(self) -> tuple[float, ...]:
        """The rates whose best candidate comes within `WORKS` of the best of all on the held-out samples."""
        best = self.held_out.max(axis=1)
        return tuple(rate for rate, top1 in zip(self.rates, best, strict=True) if top1 >= best.max() - WORKS)


def batch_of(samples: int) -> int:
    """Samples a step: many, for speed, but no fewer than some thirty steps an epoch."""
    return min(1024, max(32, samples // 32))


def linear_sweep(
    train: Array,
    train_labels: Array,
    test: Array,
    *,
    num_classes: int,
    rates: Sequence[float] = RATES,
    decays: Sequence[float] = DECAYS,
    epochs: int = EPOCHS,
    batch: int | None = None,
    seed: int = 0,
) -> Sweep:
    """A linear classifier on standardised features by SGD, its rate and weight decay chosen on held-out samples.

    Momentum 0.9, cosine schedule over all steps, weight decay on weights but not on biases. A tenth of each class of
    the training samples is held out; the candidate that is best there is trained again on all of them.

    Args:
        train: float [n, d]; may be a memory map.
        train_labels: int [n], 0 <= label < `num_classes`.
        test: float [m, d].
        rates, decays: the candidates are all pairs.
        epochs: of each candidate. batch: samples a step, by default `batch_of` as many as there are.
        seed: of the held-out samples and the order of the others.

    Raises:
        ValueError: too few samples for holding some out, or shapes that do not fit.
    """
    if train.shape[1:] != test.shape[1:] or train_labels.shape != (len(train),):
        raise ValueError(f"features {train.shape}, {test.shape} and labels {train_labels.shape} do not fit")
    rng = np.random.default_rng(seed)
    held = _held_out(train_labels, rng)
    if not len(held) or len(held) == len(train):
        raise ValueError(f"of {len(train)} samples none can be held out: a class needs two at least")
    standard = Standard.of(train)
    batch = batch or batch_of(len(train))
    pairs = [(rate, decay) for rate in rates for decay in decays]
    rest = np.setdiff1d(np.arange(len(train)), held)
    weights, bias = _fit(train, train_labels, rest, standard, pairs, num_classes, epochs, batch, seed)
    logits = _logits(train[held], standard, weights, bias, len(pairs))  # [h, candidates, C]
    # A candidate that diverged holds NaN, which argmax would take for the highest score.
    top1 = np.where(np.isfinite(logits).all(axis=2), logits.argmax(axis=2) == train_labels[held][:, None], False)
    held_out = top1.mean(axis=0).reshape(len(rates), len(decays))
    rate, decay = pairs[int(held_out.argmax())]
    everything = np.arange(len(train))
    weights, bias = _fit(train, train_labels, everything, standard, [(rate, decay)], num_classes, epochs, batch, seed)
    scores = _logits(test, standard, weights, bias, 1)[:, 0]
    return Sweep(scores, rate, decay, held_out, tuple(rates), tuple(decays))


class Logistic(NamedTuple):
    """What `logistic_regression` found.

    Attributes:
        scores: float [m, C], logits of the test set.
        iterations: of L-BFGS.
        converged: whether it ended at the optimum.
    """

    scores: Array
    iterations: int
    converged: bool


def logistic_regression(
    train: Array, train_labels: Array, test: Array, *, num_classes: int, c: float = 1.0, max_iter: int = 1000
) -> Logistic:
    """L2-regularised logistic regression on standardised features, to its optimum by L-BFGS (scikit-learn).

    Args:
        train: float [n, d].
        train_labels: int [n].
        test: float [m, d].
        num_classes: classes without a sample score -inf.
        c: the inverse of the regularisation, in scikit-learn's sense.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    standard = Standard.of(train)
    classifier = LogisticRegression(C=c, max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is said in the result
        classifier.fit(standard(train), train_labels)
    iterations = int(classifier.n_iter_.max())
    found = classifier.decision_function(standard(test))
    if found.ndim == 1:  # of two classes the second's
        found = np.stack([-found, found], axis=1)
    scores = np.full((len(test), num_classes), -np.inf)
    scores[:, classifier.classes_] = found
    return Logistic(scores, iterations, iterations < max_iter)


def _held_out(labels: Array, rng: np.random.Generator) -> Array:
    """A tenth of each class, at least one sample of each that has two."""
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(HELD_OUT * len(members))) if len(members) > 1 else 0
        chosen.append(rng.choice(members, count, replace=False))
    return np.sort(np.concatenate(chosen))


def _fit(
    features: Array,
    labels: Array,
    rows: Array,
    standard: Standard,
    pairs: Sequence[tuple[float, float]],
    classes: int,
    epochs: int,
    batch: int,
    seed: int,
) -> tuple[Any, Any]:
    """Weights, tensors [d, candidates * C] and [candidates * C], of all candidates, trained on samples `rows`."""
    import paddle

    rng = np.random.default_rng((seed, 1))
    width = len(pairs) * classes
    rates = np.repeat(np.array([rate for rate, _ in pairs], np.float32), classes)
    decay = paddle.to_tensor(np.repeat(np.array([decay for _, decay in pairs], np.float32), classes))
    weights = paddle.zeros([features.shape[1], width])
    bias = paddle.zeros([width])
    speed_w, speed_b = paddle.zeros_like(weights), paddle.zeros_like(bias)
    steps = epochs * -(-len(rows) // batch)
    step = 0
    with paddle.no_grad():
        for _ in range(epochs):
            order = rng.permutation(rows)
            for low in range(0, len(order), batch):
                chosen = order[low : low + batch]
                x = paddle.to_tensor(standard(features[chosen]))
                target = paddle.nn.functional.one_hot(paddle.to_tensor(labels[chosen]), classes).unsqueeze(1)
                logits = (x @ weights + bias).reshape([len(chosen), len(pairs), classes])
                # The gradient of the cross-entropy in the logits.
                error = (paddle.nn.functional.softmax(logits) - target).reshape([len(chosen), width]) / len(chosen)
                rate = paddle.to_tensor(rates * np.float32(0.5 * (1 + math.cos(math.pi * step / steps))))
                speed_w = MOMENTUM * speed_w + paddle.matmul(x, error, transpose_x=True) + decay * weights
                speed_b = MOMENTUM * speed_b + error.sum(axis=0)
                weights, bias = weights - rate * speed_w, bias - rate * speed_b
                step += 1
    return weights, bias


def _logits(features: Array, standard: Standard, weights: Any, bias: Any, candidates: int, rows: int = 4096) -> Array:
    """float32 [n, candidates, C]."""
    import paddle

    parts = []
    with paddle.no_grad():
        for low in range(0, len(features), rows):
            part = paddle.to_tensor(standard(features[low : low + rows])) @ weights + bias
            parts.append(part.numpy().reshape(len(part), candidates, -1))
    return np.concatenate(parts)
