"""Losses against their formulas in numpy, and what they do to gradients and number types."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl_simsiam.models.losses import CrossEntropy, CrossEntropySimilarity, NegativeCosine


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def outputs(dtype: str = "float64") -> dict[str, list[paddle.Tensor]]:
    tensors = [paddle.to_tensor(random(6, 5, seed=seed).astype(dtype), stop_gradient=False) for seed in range(4)]
    return {"z": tensors[:2], "p": tensors[2:]}


def test_negative_cosine_is_the_papers_formula() -> None:
    out = outputs()
    (z1, z2), (p1, p2) = ([t.numpy() for t in out[key]] for key in ("z", "p"))

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]))

    expected = -0.5 * similarity(p1, z2) - 0.5 * similarity(p2, z1)
    assert NegativeCosine()(out).item() == pytest.approx(expected, rel=1e-14)


def test_negative_cosine_of_agreeing_and_opposite_views() -> None:
    z = paddle.randn([4, 8])
    assert NegativeCosine()({"z": [z, z], "p": [3 * z, 5 * z]}).item() == pytest.approx(-1, abs=1e-6)
    assert NegativeCosine()({"z": [z, z], "p": [-z, -z]}).item() == pytest.approx(1, abs=1e-6)


def test_negative_cosine_stops_the_gradient_at_z_only() -> None:
    out = outputs()
    NegativeCosine()(out).backward()
    assert [z.grad for z in out["z"]] == [None, None]
    for p, z in zip(out["p"], reversed(out["z"]), strict=True):
        # d(-cos(p, z))/dp = -(z/|z| - cos p/|p|) / |p|, halved and averaged over the batch of 6
        length, z_unit = np.linalg.norm(p.numpy(), axis=1, keepdims=True), z.numpy()
        z_unit = z_unit / np.linalg.norm(z_unit, axis=1, keepdims=True)
        p_unit = p.numpy() / length
        cosine = (p_unit * z_unit).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(p.grad.numpy(), -(z_unit - cosine * p_unit) / length / 12, rtol=0, atol=1e-15)


def test_negative_cosine_of_zero_vectors_is_zero_with_finite_gradients() -> None:
    p, z = paddle.zeros([2, 4]), paddle.ones([2, 4])
    p.stop_gradient = False
    loss = NegativeCosine()({"z": [z, z], "p": [p, p]})
    loss.backward()
    assert loss.item() == 0
    assert np.isfinite(p.grad.numpy()).all()


def test_without_stop_gradient_it_flows_through_both_sides() -> None:
    """Equal in value, but each z gets what a p in its place would."""
    out = outputs()
    loss = NegativeCosine(stop_gradient=False)(out)
    loss.backward()
    assert loss.item() == NegativeCosine()(out).item()
    swapped = {"z": [x.detach() for x in out["p"]], "p": out["z"]}
    ours = [z.grad.numpy() for z in out["z"]]
    for z in out["z"]:
        z.clear_gradient(False)
    NegativeCosine()(swapped).backward()
    for a, z in zip(ours, out["z"], strict=True):
        np.testing.assert_allclose(a, z.grad.numpy(), rtol=0, atol=1e-15)


def test_the_asymmetric_loss_is_one_of_the_two_halves() -> None:
    out = outputs()
    flipped = {key: list(reversed(value)) for key, value in out.items()}
    halves = [NegativeCosine(symmetric=False)(x).item() for x in (out, flipped)]
    assert halves[0] != pytest.approx(halves[1], rel=1e-3)
    assert NegativeCosine()(out).item() == pytest.approx(np.mean(halves), rel=1e-14)


def test_cross_entropy_similarity_is_the_papers_formula() -> None:
    out = outputs()
    (z1, z2), (p1, p2) = ([t.numpy() for t in out[key]] for key in ("z", "p"))

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    def distance(p: np.ndarray, z: np.ndarray) -> float:
        return float(-(softmax(z) * np.log(softmax(p))).sum(axis=1).mean())

    loss = CrossEntropySimilarity()(out)
    assert loss.item() == pytest.approx((distance(p1, z2) + distance(p2, z1)) / 2, rel=1e-14)
    loss.backward()
    assert [z.grad for z in out["z"]] == [None, None]
    for p, z in zip((p1, p2), (z2, z1), strict=True):  # d/dp = softmax(p) - softmax(z), halved, over the batch of 6
        tensor = out["p"][0] if p is p1 else out["p"][1]
        np.testing.assert_allclose(tensor.grad.numpy(), (softmax(p) - softmax(z)) / 12, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("given", "computed"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_losses_compute_in_float32_at_least(given: str, computed: str) -> None:
    out = outputs(given)
    assert NegativeCosine()(out).dtype == getattr(paddle, computed)
    labels = paddle.to_tensor([0, 1, 2, 3, 4, 0])
    assert CrossEntropy()({"logits": out["z"][0], "labels": labels}).dtype == getattr(paddle, computed)


def test_cross_entropy_is_the_mean_negative_log_softmax() -> None:
    logits, labels = random(6, 5), np.array([0, 1, 2, 3, 4, 0])
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probability[np.arange(6), labels]).mean()
    given = {"logits": paddle.to_tensor(logits), "labels": paddle.to_tensor(labels)}
    assert CrossEntropy()(given).item() == pytest.approx(expected, rel=1e-14)
