"""SimSiam, SimCLR and the classifier: how the parts are wired, and where gradients go."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_simsiam.models.backbones.resnet import ResNet18
from passl_simsiam.models.classifier import Classifier
from passl_simsiam.models.heads import LinearClassifier, SimSiamPredictor
from passl_simsiam.models.losses import NegativeCosine
from passl_simsiam.models.necks import SimSiamProjector
from passl_simsiam.models.simclr import NTXent, SimCLR, SimCLRProjector
from passl_simsiam.models.simsiam import SimSiam


def simsiam() -> SimSiam:
    backbone = ResNet18(width=2, stem="cifar", zero_init_residual=False)
    return SimSiam(backbone, SimSiamProjector(16, out_channels=8), SimSiamPredictor(8, hidden_channels=4))


def views(count: int = 2) -> list[paddle.Tensor]:
    rng = np.random.default_rng(0)
    return [paddle.to_tensor(rng.standard_normal([4, 3, 8, 8]).astype("float32")) for _ in range(count)]


def gradients(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def test_simsiam_predicts_each_projection() -> None:
    model = simsiam()
    model.eval()
    x1, x2 = views()
    out = model([x1, x2])
    for x, h, z, p in zip((x1, x2), out["h"], out["z"], out["p"], strict=True):
        np.testing.assert_array_equal(h.numpy(), model.backbone(x).numpy())
        np.testing.assert_array_equal(z.numpy(), model.neck(h).numpy())
        np.testing.assert_array_equal(p.numpy(), model.head(z).numpy())


def test_batch_statistics_are_of_one_view_at_a_time() -> None:
    model = simsiam()
    x1, x2 = views()
    together = model([x1, x2])["z"][0]
    alone = model.neck(model.backbone(x1))
    np.testing.assert_array_equal(together.numpy(), alone.numpy())


def test_training_gradient_is_that_of_targets_held_constant() -> None:
    """The stop-gradient inside the loss: the same as computing the targets outside the graph beforehand."""
    model = simsiam()
    x1, x2 = views()
    NegativeCosine()(model([x1, x2])).backward()
    real = gradients(model)
    model.clear_gradients()

    with paddle.no_grad():
        targets = [model.neck(model.backbone(x)) for x in (x1, x2)]
    predictions = [model.head(model.neck(model.backbone(x))) for x in (x1, x2)]
    NegativeCosine()({"z": targets, "p": predictions}).backward()
    constant = gradients(model)

    trainable = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert real.keys() == constant.keys() == trainable
    for name in real:
        np.testing.assert_allclose(real[name], constant[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_gradient_through_the_targets_would_be_another_one() -> None:
    """So that the test above can fail."""
    model = simsiam()
    out = model(views())
    NegativeCosine()(out).backward(retain_graph=True)
    stopped = gradients(model)["neck.6.weight"]
    model.clear_gradients()
    (z1, z2), (p1, p2) = out["z"], out["p"]
    cosine = nn.functional.cosine_similarity
    (-(cosine(p1, z2).mean() + cosine(p2, z1).mean()) / 2).backward()
    assert np.abs(gradients(model)["neck.6.weight"] - stopped).max() > 0.01 * np.abs(stopped).max()


def test_simclr_projects_every_view_and_trains_every_parameter() -> None:
    model = SimCLR(ResNet18(width=2, stem="cifar", zero_init_residual=False), SimCLRProjector(16, out_channels=8))
    out = model(views())
    assert [h.shape for h in out["h"]] == [[4, 16], [4, 16]]
    assert [z.shape for z in out["z"]] == [[4, 8], [4, 8]]
    NTXent()(out).backward()
    trainable = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert {name for name, g in gradients(model).items() if np.abs(g).max() > 0} == trainable


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_the_papers_formula(temperature: float) -> None:
    """Equation 1 for every ordered positive pair, in plain loops."""
    b = 5
    rng = np.random.default_rng(1)
    z = rng.standard_normal([2 * b, 7])
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(2 * b):
        j = (i + b) % (2 * b)
        scores = {k: np.exp(unit[i] @ unit[k] / temperature) for k in range(2 * b) if k != i}
        terms.append(-np.log(scores[j] / sum(scores.values())))
    loss = NTXent(temperature)({"z": [paddle.to_tensor(z[:b]), paddle.to_tensor(z[b:])]})
    assert loss.dtype == paddle.float64
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-12)


def test_nt_xent_computes_in_float32_from_half_precision() -> None:
    z = paddle.randn([4, 8]).astype("float16")
    assert NTXent()({"z": [z, z]}).dtype == paddle.float32


def test_classifier_puts_the_head_on_the_features() -> None:
    model = Classifier(ResNet18(width=2, stem="cifar"), LinearClassifier(16, num_classes=10))
    model.eval()
    (x,) = views(1)
    logits = model(x)
    assert logits.shape == [4, 10]
    np.testing.assert_array_equal(logits.numpy(), model.head(model.backbone(x)).numpy())
