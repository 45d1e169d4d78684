"""LARC's trust ratio, case by case; whole runs are compared in tests/parity."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl_simsiam.optim.groups import ParamGroup
from passl_simsiam.optim.larc import LARC


def step_taken(p: list[float], g: list[float], weight_decay: float) -> np.ndarray:
    """How far one first step at rate 1 moves parameter p with gradient g."""
    parameter = paddle.create_parameter([len(p)], "float64")
    parameter.set_value(np.array(p, "float64"))
    parameter.grad = paddle.to_tensor(np.array(g, "float64"))
    LARC([ParamGroup("main", [("p", parameter)])], weight_decay=weight_decay, trust=0.001).step({"main": 1.0})
    return np.array(p) - parameter.numpy()


def test_the_step_is_scaled_at_weight_decay_zero() -> None:
    """|p| = 5, |g| = 10: the step has the length 0.001 * 5, whatever the gradient's."""
    assert step_taken([3, 4], [6, 8], 0.0) == pytest.approx(0.001 * 5 / (10 + 1e-8) * np.array([6, 8]), rel=1e-12)
    assert np.linalg.norm(step_taken([3, 4], [600, 800], 0.0)) == pytest.approx(0.005, rel=1e-9)


def test_weight_decay_is_under_the_ratio() -> None:
    ratio = 0.001 * 5 / (10 + 0.1 * 5 + 1e-8)
    assert step_taken([3, 4], [8, 6], 0.1) == pytest.approx(ratio * np.array([8.3, 6.4]), rel=1e-12)


def test_it_is_not_clipped_to_the_plain_step() -> None:
    """A small gradient is scaled up: clip=False."""
    assert np.linalg.norm(step_taken([3000, 4000], [1e-3, 0], 0.0)) == pytest.approx(5 / (1 + 1e-5), rel=1e-9)


def test_a_parameter_at_zero_takes_a_plain_step() -> None:
    assert step_taken([0, 0], [6, 8], 0.1) == pytest.approx([6, 8])


def test_a_zero_gradient_is_not_divided_by() -> None:
    assert step_taken([3, 4], [0, 0], 0.0) == pytest.approx([0, 0])
