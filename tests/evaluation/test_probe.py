"""The sweep and the logistic regression against independent optimizers, on random features and on a network's."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from passl_simsiam.data.datasets.digits import Digits
from passl_simsiam.evaluation import probe
from passl_simsiam.evaluation.metrics import topk_accuracy
from passl_simsiam.evaluation.probe import linear_sweep, logistic_regression
from passl_simsiam.evaluation.standard import Standard
from passl_simsiam.models.backbones.resnet import ResNet18


@pytest.fixture(scope="module")
def digits():
    """Features of a small network with random weights, and labels, of the two splits of the digits."""
    paddle.seed(0)
    network = ResNet18(width=8, stem="cifar")
    network.train()  # batch norm by the statistics of the images: those of fresh weights would leave little alive
    parts = []
    for split in ("train", "val"):
        data = Digits(split)
        with paddle.no_grad():
            images = data.images.transpose(0, 3, 1, 2).repeat(2, axis=2).repeat(2, axis=3)
            images = paddle.to_tensor(images.astype(np.float32) / 255)
            parts += [network(images).numpy(), data.labels]
    return parts


def random_problem(n=200, d=6, classes=4):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    return (rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d))).astype(np.float32), labels


def test_standardising_is_scikit_learns(digits) -> None:
    for features in (digits[0], random_problem()[0]):
        expected = StandardScaler().fit(features.astype(np.float64)).transform(features)
        np.testing.assert_allclose(Standard.of(features, rows=97)(features), expected, atol=2e-4)


def test_a_constant_feature_says_nothing() -> None:
    features = np.full((10, 2), 1e4, np.float32)
    features[:, 1] = np.arange(10)
    assert (Standard.of(features)(features)[:, 0] == 0).all()


def test_a_candidate_is_momentum_on_the_cross_entropy() -> None:
    """Against Paddle's own layers, automatic gradients and optimizer, with batches of everything."""
    features, labels = random_problem()
    standard, rate, decay, epochs = Standard.of(features), 0.3, 0.02, 30
    weights, bias = probe._fit(features, labels, np.arange(200), standard, [(rate, decay)], 4, epochs, 1000, 0)

    linear = paddle.nn.Linear(6, 4)
    linear.weight.set_value(paddle.zeros([6, 4]))
    linear.weight.regularizer = paddle.regularizer.L2Decay(decay)
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(rate, T_max=epochs)
    optimizer = paddle.optimizer.Momentum(schedule, 0.9, parameters=linear.parameters())
    x, y = paddle.to_tensor(standard(features)), paddle.to_tensor(labels)
    for _ in range(epochs):
        paddle.nn.functional.cross_entropy(linear(x), y).backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    np.testing.assert_allclose(weights.numpy(), linear.weight.numpy(), atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), linear.bias.numpy(), atol=1e-5)


def test_candidates_side_by_side_are_those_trained_alone(digits) -> None:
    features, labels = digits[0][:300], digits[1][:300]
    pairs, standard = [(0.1, 0.0), (1e9, 0.0), (0.5, 1e-2)], Standard.of(features)
    arguments = (10, 3, 64, 0)
    together, _ = probe._fit(features, labels, np.arange(300), standard, pairs, *arguments)
    for place in (0, 2):  # the one between diverges
        alone, _ = probe._fit(features, labels, np.arange(300), standard, [pairs[place]], *arguments)
        np.testing.assert_allclose(together.numpy()[:, 10 * place : 10 * place + 10], alone.numpy(), atol=1e-5)


def test_the_sweep_comes_close_to_the_optimum(digits) -> None:
    train, labels, test, truth = digits
    sweep = linear_sweep(train, labels, test, num_classes=10, epochs=30, batch=128)
    exact = logistic_regression(train, labels, test, num_classes=10)
    assert exact.converged
    assert topk_accuracy(sweep.scores, truth) == pytest.approx(topk_accuracy(exact.scores, truth), abs=0.03)
    assert topk_accuracy(sweep.scores, truth) > 0.5
    assert sweep.held_out.shape == (len(probe.RATES), len(probe.DECAYS))
    assert sweep.held_out.max() == sweep.held_out[sweep.rates.index(sweep.rate), sweep.decays.index(sweep.decay)]
    assert sweep.rate in sweep.working_rates
    assert set(sweep.working_rates) < set(sweep.rates)


def test_a_candidate_that_diverged_is_not_chosen() -> None:
    features, labels = random_problem()
    sweep = linear_sweep(features, labels, features, num_classes=4, rates=(0.1, 1e30), decays=(1.0,), epochs=10)
    assert sweep.rate == 0.1
    assert sweep.working_rates == (0.1,)
    assert np.isfinite(sweep.scores).all()


def test_nothing_is_chosen_on_the_test_set(digits) -> None:
    train, labels, test, _ = digits
    small = {"num_classes": 10, "rates": (0.01, 1.0), "decays": (0.0,), "epochs": 3}
    a = linear_sweep(train, labels, test, **small)
    b = linear_sweep(train, labels, test[::-1].copy(), **small)
    np.testing.assert_array_equal(a.held_out, b.held_out)
    np.testing.assert_allclose(a.scores, b.scores[::-1], atol=1e-4)


def test_held_out_samples_are_a_tenth_of_each_class() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 3, 1])
    held = probe._held_out(labels, np.random.default_rng(0))
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 5, 1, 0]
    assert len(set(held.tolist())) == len(held)


def test_a_set_too_small_to_hold_out_is_refused() -> None:
    with pytest.raises(ValueError, match="held out"):
        linear_sweep(np.eye(3, dtype=np.float32), np.arange(3), np.eye(3, dtype=np.float32), num_classes=3)


@pytest.mark.parametrize("source", ["random", "digits"])
def test_logistic_regression_is_at_the_optimum(source, digits) -> None:
    """Against the objective written out and minimised by SciPy."""
    features, labels = random_problem() if source == "random" else (digits[0][:200, :8], digits[1][:200])
    classes, x = int(labels.max()) + 1, Standard.of(features)(features).astype(np.float64)
    d = x.shape[1]

    def objective(flat):
        w, b = flat[: d * classes].reshape(d, classes), flat[d * classes :]
        return -log_softmax(x @ w + b, axis=1)[np.arange(len(x)), labels].sum() + 0.5 * (w**2).sum()

    found = minimize(
        objective, np.zeros((d + 1) * classes), method="L-BFGS-B", options={"maxiter": 500, "maxfun": 10**6}
    )
    expected = x @ found.x[: d * classes].reshape(d, classes) + found.x[d * classes :]
    scores = logistic_regression(features, labels, features, num_classes=classes).scores
    np.testing.assert_allclose(
        log_softmax(scores.astype(np.float64), axis=1), log_softmax(expected, axis=1), rtol=5e-3, atol=5e-3
    )
    assert (scores.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.99


def test_classes_without_samples_and_two_classes() -> None:
    features, labels = random_problem(classes=2)
    scores = logistic_regression(features, 1 + 2 * labels, features, num_classes=5).scores
    assert np.isneginf(scores[:, [0, 2, 4]]).all()
    reference = LogisticRegression(max_iter=1000).fit(StandardScaler().fit_transform(features), labels)
    expected = reference.predict(StandardScaler().fit_transform(features))
    np.testing.assert_array_equal(scores.argmax(axis=1), 1 + 2 * expected)


def test_an_end_before_the_optimum_is_told() -> None:
    features, labels = random_problem()
    assert not logistic_regression(features, labels, features, num_classes=4, max_iter=2).converged
