"""Momentum SGD against its formula and Paddle's kernel; its state."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_simsiam.errors import UserError
from passl_simsiam.optim.groups import GroupRule, split_parameters
from passl_simsiam.optim.larc import LARC
from passl_simsiam.optim.momentum import Momentum


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))


def optimizer(net: nn.Layer, **arguments: float) -> Momentum:
    return Momentum(split_parameters(net, [GroupRule("last", "2")]), **arguments)


def give_gradients(net: nn.Layer, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(p.shape).astype("float32") for name, p in net.named_parameters()}
    for name, p in net.named_parameters():
        p.grad = paddle.to_tensor(values[name])
    return values


def weights(net: nn.Layer) -> dict[str, np.ndarray]:
    return {name: p.numpy().copy() for name, p in net.named_parameters()}


def train(net: nn.Layer, sgd: Momentum, steps: range) -> None:
    for step in steps:
        give_gradients(net, step)
        sgd.step({"main": 0.1 / (step + 1), "last": 0.02})


def test_steps_follow_the_formula_with_each_groups_own_rate() -> None:
    net = model()
    sgd = optimizer(net, momentum=0.8, weight_decay=0.01)
    expected = weights(net)
    velocity = dict.fromkeys(expected, 0.0)
    for step in range(4):
        gradients = give_gradients(net, step)
        rates = {"main": 0.1 / (step + 1), "last": 0.02}
        sgd.step(rates)
        for name, g in gradients.items():
            velocity[name] = 0.8 * velocity[name] + g + 0.01 * expected[name]
            expected[name] = expected[name] - rates["last" if name.startswith("2.") else "main"] * velocity[name]
    for name, value in weights(net).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_it_equals_paddles_momentum_in_float32() -> None:
    ours, theirs = model(), model()
    theirs.set_state_dict(ours.state_dict())
    sgd = Momentum(split_parameters(ours), momentum=0.9, weight_decay=1e-4)
    kernel = paddle.optimizer.Momentum(0.05, 0.9, theirs.parameters(), weight_decay=1e-4)
    for step in range(10):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        sgd.step({"main": 0.05})
        kernel.step()
    for name, value in weights(ours).items():
        np.testing.assert_allclose(value, weights(theirs)[name], rtol=2e-6, atol=1e-6, err_msg=name)


def test_a_parameter_without_a_gradient_stays_still() -> None:
    net = model()
    sgd = optimizer(net, weight_decay=0.1)
    before = weights(net)
    train(net, sgd, range(1))
    sgd.clear_grad()
    assert all(p.grad is None for p in net.parameters())
    moved = weights(net)
    sgd.step({"main": 0.1, "last": 0.1})
    for name, value in weights(net).items():
        assert not np.array_equal(before[name], moved[name])
        np.testing.assert_array_equal(value, moved[name], err_msg=name)


def test_rates_for_other_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['main'\].*\['last', 'main'\]"):
        optimizer(model()).step({"main": 0.1})


def test_state_is_kept_under_structural_names_and_continues_a_run_exactly() -> None:
    """Into a model built later, whose Paddle names count on, and in another order of construction."""
    whole, first = model(), model()
    first.set_state_dict(whole.state_dict())
    train(whole, optimizer(whole), range(6))

    sgd = optimizer(first)
    train(first, sgd, range(3))
    state = {name: paddle.to_tensor(value.numpy()) for name, value in sgd.state_dict().items()}
    assert list(state) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]

    layers = [nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)]
    second = nn.Sequential(*reversed(layers))
    second.set_state_dict(first.state_dict())
    resumed = optimizer(second)
    resumed.load_state_dict(state)
    train(second, resumed, range(3, 6))
    for name, value in weights(second).items():
        np.testing.assert_array_equal(value, weights(whole)[name], err_msg=name)


def test_loading_copies() -> None:
    net = model()
    sgd = optimizer(net)
    state = {name: paddle.ones_like(value) for name, value in sgd.state_dict().items()}
    sgd.load_state_dict(state)
    train(net, sgd, range(1))
    assert all((value.numpy() == 1).all() for value in state.values())


def test_state_before_the_first_step_is_zero_velocity() -> None:
    assert all(not value.numpy().any() for value in optimizer(model()).state_dict().values())


def test_a_state_of_another_model_is_refused_and_changes_nothing() -> None:
    sgd = optimizer(model())
    good = {name: paddle.ones_like(value) for name, value in sgd.state_dict().items()}
    with pytest.raises(UserError, match=r"1 missing, such as '1.bias'"):
        sgd.load_state_dict({name: value for name, value in good.items() if name != "1.bias"})
    with pytest.raises(UserError, match=r"6 missing"):
        sgd.load_state_dict({})
    with pytest.raises(UserError, match=r"1 unknown, such as '3.weight'"):
        sgd.load_state_dict({**good, "3.weight": paddle.ones([1])})
    with pytest.raises(UserError, match=r"'2.weight' has shape \[2, 4\], the model's is \[4, 2\]"):
        sgd.load_state_dict({**good, "2.weight": paddle.ones([2, 4])})
    assert all(not value.numpy().any() for value in sgd.state_dict().values())


def test_a_parameter_in_two_groups_is_refused() -> None:
    groups = split_parameters(model())
    with pytest.raises(ValueError, match="two groups"):
        Momentum([*groups, *groups])


def test_larc_has_the_same_state() -> None:
    net = model()
    assert LARC(split_parameters(net)).state_dict().keys() == optimizer(net).state_dict().keys()
