"""Projectors, predictor and classifier: layer order, what is frozen, start values."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_simsiam.errors import UserError
from passl_simsiam.models.heads import LinearClassifier, NoPredictor, SimSiamPredictor
from passl_simsiam.models.necks import SimSiamProjector
from passl_simsiam.models.simclr import SimCLRProjector
from passl_simsiam.registry import HEADS, NECKS


def shapes(layer: nn.Layer) -> dict[str, list[int]]:
    """Trainable parameters by structural name."""
    return {name: p.shape for name, p in layer.named_parameters() if not p.stop_gradient}


def test_projector_of_three_layers() -> None:
    neck = SimSiamProjector(8, out_channels=16)
    assert shapes(neck) == {
        "0.weight": [8, 8],
        "1.weight": [8],
        "1.bias": [8],
        "3.weight": [8, 8],
        "4.weight": [8],
        "4.bias": [8],
        "6.weight": [8, 16],
    }
    assert neck.out_channels == 16
    assert neck(paddle.randn([4, 8])).shape == [4, 16]


def test_projector_of_two_layers_with_its_own_width() -> None:
    neck = SimSiamProjector(8, out_channels=16, hidden_channels=12, layers=2)
    assert shapes(neck) == {"0.weight": [8, 12], "1.weight": [12], "1.bias": [12], "3.weight": [12, 16]}


@pytest.mark.parametrize("layers", [2, 3])
def test_last_linear_has_a_frozen_bias_and_the_last_batch_norm_no_affine_part(layers: int) -> None:
    neck = SimSiamProjector(8, out_channels=16, layers=layers)
    linear, norm = neck[len(neck) - 2], neck[len(neck) - 1]
    assert linear.bias.stop_gradient
    assert linear.bias.numpy().any()  # it starts random, like any bias
    z = neck(paddle.randn([64, 8]))
    np.testing.assert_allclose(z.mean(axis=0).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=0, unbiased=False).numpy(), 1, atol=1e-3)
    assert sorted(norm.state_dict()) == ["_mean", "_variance"]


def test_predictor_is_a_bottleneck_without_batch_norm_on_its_output() -> None:
    head = SimSiamPredictor(16, hidden_channels=4)
    assert shapes(head) == {
        "0.weight": [16, 4],
        "1.weight": [4],
        "1.bias": [4],
        "3.weight": [4, 16],
        "3.bias": [16],
    }
    assert head(paddle.randn([4, 16])).shape == [4, 16]


def norms(layer: nn.Layer) -> list[str]:
    return [name for name, part in layer.named_sublayers() if isinstance(part, nn.BatchNorm1D)]


@pytest.mark.parametrize(
    ("places", "neck", "head"), [("none", [], []), ("hidden", ["1", "4"], ["1"]), ("all", ["1", "4", "7"], ["1", "4"])]
)
def test_batch_norm_places(places, neck, head) -> None:  # type: ignore[no-untyped-def]
    projector = SimSiamProjector(8, out_channels=16, batch_norm=places)
    predictor = SimSiamPredictor(16, hidden_channels=4, batch_norm=places)
    assert (norms(projector), norms(predictor)) == (neck, head)
    for layer in (projector, predictor):  # whatever shifts the output is trained, once
        last = "6" if layer is projector else "3"
        assert (f"{last}.bias" in shapes(layer)) is (layer is predictor or places != "all")
        assert ("0.bias" in shapes(layer)) is (places == "none")


def test_options_for_other_projects_weights() -> None:
    projector = SimSiamProjector(8, out_channels=16, bias=True, affine=True)
    assert {"0.bias", "3.bias", "7.weight", "7.bias"} <= shapes(projector).keys()
    assert "6.bias" not in shapes(projector)  # still frozen: the last batch norm takes it away
    assert "0.bias" in shapes(SimSiamPredictor(16, hidden_channels=4, bias=True))


def test_a_fixed_predictor_passes_the_gradient_on_but_takes_none() -> None:
    head = SimSiamPredictor(16, hidden_channels=4, trainable=False)
    assert shapes(head) == {}
    z = paddle.randn([4, 16])
    z.stop_gradient = False
    head(z).square().sum().backward()
    assert np.abs(z.grad.numpy()).max() > 0


def test_no_predictor_is_the_identity() -> None:
    z = paddle.randn([4, 16])
    head = NoPredictor(16)
    np.testing.assert_array_equal(head(z).numpy(), z.numpy())
    assert (head.out_channels, shapes(head)) == (16, {})


@pytest.mark.parametrize("layer", [SimSiamProjector(256, 128), SimSiamPredictor(256, 128), SimCLRProjector(256)])
def test_linear_layers_start_uniform_within_one_over_root_fan_in(layer: nn.Layer) -> None:
    for part in layer.sublayers():
        if isinstance(part, nn.Linear):
            bound = 1 / math.sqrt(part.weight.shape[0])
            for parameter in [part.weight] + ([part.bias] if part.bias is not None else []):
                value = parameter.numpy()
                assert np.abs(value).max() <= bound
                assert np.abs(value).max() > 0.9 * bound
                assert value.std() == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(value.size))


def test_linear_classifier_starts_near_zero() -> None:
    head = LinearClassifier(512, num_classes=100)
    assert head.weight.numpy().std() == pytest.approx(0.01, rel=0.02)
    assert not head.bias.numpy().any()
    assert head(paddle.randn([4, 512])).shape == [4, 100]


@pytest.mark.parametrize(
    ("registry", "name", "arguments"),
    [
        (NECKS, "SimSiamProjector", {"layers": 4}),
        (NECKS, "SimSiamProjector", {"out_channels": 0}),
        (NECKS, "SimSiamProjector", {"in_channels": 8}),
        (HEADS, "SimSiamPredictor", {"hidden_channels": -1}),
        (HEADS, "LinearClassifier", {"num_classes": 1}),
    ],
)
def test_bad_arguments_are_refused_by_the_registry(registry, name, arguments) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=next(iter(arguments))):
        registry.check(name, arguments, "Model.part")
