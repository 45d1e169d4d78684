"""LARC's steps on a linear probe against the reference: weight decay 0 and not, from the start weights to the end."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from golden_files import FOLDER, draw, load

from passl_simsiam import build
from passl_simsiam.config import load_config
from passl_simsiam.optim.groups import ParamGroup, rates_at
from passl_simsiam.registry import HEADS

GOLDEN = load("larc_steps.json")
# The file holds the numbers alone; these are its generator's settings.
SAMPLES, WIDTH, CLASSES, EPOCHS, STEPS_PER_EPOCH, RATE, TRUST = 256, 64, 10, 4, 5, 1.6, 0.001

runs = pytest.mark.parametrize("weight_decay", list(GOLDEN))
precisions = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 1e-5)])


@dataclass
class Parts:
    """What a recipe builds for the linear probe."""

    head: paddle.nn.Layer
    loss: Any
    groups: list[ParamGroup]
    optimizer: Any
    schedule: Any


RECIPE = Path(__file__).parents[2] / "configs/simsiam_r50_lp.yaml"


def construct(weight_decay: float) -> Parts:
    """What the linear-probe recipe builds around a classifier of the reference's size."""
    overrides = [
        f"Optimizer.weight_decay={weight_decay!r}",
        f"LRScheduler.learning_rate={RATE}",
        "LRScheduler.reference_batch=null",
        f"Global.epochs={EPOCHS}",
        f"Model.head.num_classes={CLASSES}",
    ]
    config = load_config(RECIPE, overrides)
    assert config.Optimizer.arguments["trust"] == TRUST
    assert config.Model.head is not None
    head = build.component(HEADS, config.Model.head, "Model.head", in_channels=WIDTH)
    groups = build.parameter_groups(config, head)
    schedule = build.schedule(config, STEPS_PER_EPOCH)
    return Parts(head, build.loss(config), groups, build.optimizer(config, groups), schedule)


@dataclass
class Result:
    losses: list[float] = field(default_factory=list)
    weight_norm: float = 0.0
    bias: np.ndarray | None = None


@functools.cache
def run(weight_decay: str, dtype: str) -> Result:
    before, result = paddle.get_default_dtype(), Result()
    paddle.set_default_dtype(dtype)
    try:
        features = np.maximum(draw("probe.features", (SAMPLES, WIDTH)), 0)
        labels = paddle.to_tensor((features @ draw("probe.teacher", (WIDTH, CLASSES))).argmax(1))
        inputs = paddle.to_tensor(features.astype(dtype))
        parts = construct(float(weight_decay))
        parts.head.weight.set_value(0.01 * draw("probe.weight", (CLASSES, WIDTH)).T.astype(dtype))
        for step in range(EPOCHS * STEPS_PER_EPOCH):
            loss = parts.loss({"logits": parts.head(inputs), "labels": labels})
            loss.backward()
            parts.optimizer.step(rates_at(parts.groups, parts.schedule, step))
            parts.optimizer.clear_grad()
            result.losses.append(loss.item())
        result.weight_norm = float(np.linalg.norm(parts.head.weight.numpy()))
        result.bias = parts.head.bias.numpy()
    finally:
        paddle.set_default_dtype(before)
    return result


def test_there_are_reference_runs() -> None:
    assert GOLDEN, f"no larc_steps.json in {FOLDER}"


@precisions
@runs
def test_every_loss(weight_decay: str, dtype: str, tolerance: float) -> None:
    assert run(weight_decay, dtype).losses == pytest.approx(GOLDEN[weight_decay]["loss"], rel=tolerance)


@precisions
@runs
def test_weights_after_training(weight_decay: str, dtype: str, tolerance: float) -> None:
    expected, result = GOLDEN[weight_decay], run(weight_decay, dtype)
    assert result.weight_norm == pytest.approx(expected["weight_norm"], rel=tolerance)
    np.testing.assert_allclose(result.bias, expected["bias"], rtol=0, atol=tolerance * np.abs(expected["bias"]).max())
