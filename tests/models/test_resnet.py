"""ResNets: shapes, stems, names, start values."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from passl_simsiam.errors import UserError
from passl_simsiam.models.backbones.resnet import ResNet18, ResNet34, ResNet50, ResNet101, ResNet152
from passl_simsiam.models.summary import count_parameters, summarize
from passl_simsiam.registry import BACKBONES


@pytest.mark.parametrize(("size", "stem"), [(16, "cifar"), (64, "cifar"), (65, "imagenet"), (224, "imagenet")])
def test_auto_stem_follows_the_image_size(size: int, stem: str) -> None:
    assert ResNet18(width=4, image_size=size).stem == stem


def test_a_forced_stem_wins_over_the_image_size() -> None:
    assert ResNet18(width=4, stem="imagenet", image_size=32).stem == "imagenet"


def test_auto_stem_without_an_image_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"image size.*cifar, imagenet"):
        ResNet18(width=4)


def test_stages_of_the_imagenet_stem_halve_the_side_five_times() -> None:
    stages = summarize(ResNet50(width=8, stem="imagenet"), paddle.zeros([2, 3, 96, 96])).stages
    assert {stage.name: stage.shape for stage in stages} == {
        "conv1": (2, 8, 48, 48),
        "bn1": (2, 8, 48, 48),
        "maxpool": (2, 8, 24, 24),
        "layer1": (2, 32, 24, 24),
        "layer2": (2, 64, 12, 12),
        "layer3": (2, 128, 6, 6),
        "layer4": (2, 256, 3, 3),
    }


def test_stages_of_the_cifar_stem_keep_the_side_until_layer2() -> None:
    stages = summarize(ResNet18(width=8, stem="cifar", in_channels=1), paddle.zeros([2, 1, 32, 32])).stages
    shapes = {stage.name: stage.shape for stage in stages}
    assert shapes["conv1"] == shapes["maxpool"] == shapes["layer1"] == (2, 8, 32, 32)
    assert shapes["layer4"] == (2, 64, 4, 4)


@pytest.mark.parametrize(("resnet", "out_channels"), [(ResNet18, 32), (ResNet50, 128)])
def test_features_are_pooled_and_as_wide_as_announced(resnet: type, out_channels: int) -> None:
    model = resnet(width=4, stem="cifar")
    assert model.out_channels == out_channels
    assert model(paddle.randn([3, 3, 16, 16])).shape == [3, out_channels]


@pytest.mark.parametrize(
    ("resnet", "entries"), [(ResNet18, 100), (ResNet34, 180), (ResNet50, 265), (ResNet101, 520), (ResNet152, 775)]
)
def test_depth_has_as_many_weights_and_buffers_as_torchvision(resnet: type, entries: int) -> None:
    """torchvision's state dict without fc and num_batches_tracked. The parity tests compare the names themselves."""
    assert len(resnet(width=4, stem="imagenet").state_dict()) == entries


def test_parameters_equal_torchvisions_without_fc() -> None:
    assert count_parameters(ResNet18(stem="imagenet")) == (11_176_512, 11_176_512)


def test_convolutions_start_normal_by_fan_out_and_last_batch_norms_at_zero() -> None:
    paddle.seed(0)
    model = ResNet50(width=32, stem="imagenet")
    for name, parameter in model.named_parameters():
        value = parameter.numpy()
        if value.ndim == 4:
            out, _, height, width = value.shape
            expected = math.sqrt(2 / (out * height * width))
            # The standard error of a standard deviation from n values is std / sqrt(2 n); mean likewise, 1 / sqrt(n).
            assert value.std() == pytest.approx(expected, rel=5 / math.sqrt(2 * value.size)), name
            assert abs(value.mean()) < 5 * expected / math.sqrt(value.size), name
        elif name.endswith("bn3.weight"):
            assert not value.any(), name
        elif name.endswith("weight"):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert not value.any(), name


def test_every_block_starts_as_its_shortcut() -> None:
    model = ResNet18(width=4, stem="cifar")
    model.eval()
    x = paddle.rand([2, 4, 8, 8])
    np.testing.assert_array_equal(model.layer1[0](x).numpy(), x.numpy())


def test_zero_start_can_be_switched_off() -> None:
    model = ResNet18(width=4, stem="cifar", zero_init_residual=False)
    assert (model.layer1[0].bn2.weight.numpy() == 1).all()


@pytest.mark.parametrize("bad", [{"width": 0}, {"width": "64"}, {"stem": "cifr"}, {"in_channels": 0}, {"depth": 3}])
def test_bad_arguments_are_refused_by_the_registry(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        BACKBONES.check("ResNet18", bad, "Model.backbone")
