"""Counting parameters and multiply-adds, against published and hand-computed numbers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_simsiam.models.backbones.resnet import ResNet18, ResNet50
from passl_simsiam.models.classifier import Classifier
from passl_simsiam.models.heads import LinearClassifier, SimSiamPredictor
from passl_simsiam.models.necks import SimSiamProjector
from passl_simsiam.models.simsiam import SimSiam
from passl_simsiam.models.summary import summarize


def test_resnet50_at_224_pixels_has_the_published_size_and_cost() -> None:
    model = Classifier(ResNet50(stem="imagenet"), LinearClassifier(2048, num_classes=1000))
    summary = summarize(model, paddle.zeros([1, 3, 224, 224]))
    assert summary.parameters == summary.trainable == 25_557_032
    assert summary.flops == 2 * summary.macs
    # Convolutions and fc alone are the 4.09 G that the literature gives; batch norm adds an operation an activation.
    assert summary.macs == 4_089_184_256 + 11_113_984


def test_costs_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2D(4, 6, 3, stride=2, padding=1, groups=2), nn.BatchNorm2D(6), nn.Flatten(), nn.Linear(24, 5)
    )
    summary = summarize(model, paddle.zeros([2, 4, 4, 4]))
    conv, norm, flat, linear = summary.stages
    assert (conv.shape, conv.parameters, conv.macs) == ((2, 6, 2, 2), 6 * 2 * 9 + 6, 2 * 6 * 2 * 2 * 2 * 9)
    assert (norm.shape, norm.parameters, norm.macs) == ((2, 6, 2, 2), 12, 48)
    assert (flat.shape, flat.parameters, flat.macs) == ((2, 24), 0, 0)
    assert (linear.shape, linear.parameters, linear.macs) == ((2, 5), 125, 2 * 24 * 5)
    assert summary.macs == conv.macs + norm.macs + linear.macs


def test_simsiam_by_stage_counts_both_views_and_tells_frozen_parameters() -> None:
    model = SimSiam(ResNet18(width=4, stem="cifar"), SimSiamProjector(32, 16), SimSiamPredictor(16, 8))
    x = paddle.zeros([2, 3, 16, 16])
    summary = summarize(model, [x, x])
    names = [stage.name for stage in summary.stages]
    assert names == [
        *(f"backbone.{part}" for part in ("conv1", "bn1", "maxpool")),
        *(f"backbone.layer{i}" for i in range(1, 5)),
        "neck",
        "head",
    ]
    assert summary.stages[-2].shape == (2, 16)
    assert summary.parameters - summary.trainable == 16  # the frozen bias of the projector
    assert summary.parameters == sum(stage.parameters for stage in summary.stages)
    backbone = summarize(model.backbone, x)
    assert sum(stage.macs for stage in summary.stages if stage.name.startswith("backbone")) == 2 * backbone.macs


def test_the_model_is_left_as_it_was() -> None:
    model = Classifier(ResNet18(width=4, stem="cifar"), LinearClassifier(32, num_classes=3))
    model.train()
    model.backbone.eval()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    summarize(model, paddle.randn([2, 3, 16, 16]))
    assert model.training
    assert model.head.training
    assert not any(layer.training for layer in model.backbone.sublayers(include_self=True))
    assert before.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name], err_msg=name)


def test_hooks_and_modes_are_put_back_after_a_failure() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError):  # noqa: PT011  Paddle's own message
        summarize(model, paddle.zeros([1, 5]))
    assert model.training
    assert not model[0]._forward_post_hooks
