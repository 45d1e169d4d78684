"""Schedules against their closed forms."""

from __future__ import annotations

import dataclasses
import math

import pytest

from passl_simsiam.errors import UserError
from passl_simsiam.optim.schedules import Constant, Cosine, MultiStep
from passl_simsiam.registry import SCHEDULES

SUPPLIED = {"base_rate": 0.4, "epochs": 10, "steps_per_epoch": 5}


def test_cosine_per_epoch_holds_the_rate_through_an_epoch() -> None:
    schedule = Cosine(**SUPPLIED)
    for step in range(50):
        assert schedule(step) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * (step // 5) / 10)), rel=1e-14)


def test_cosine_per_step_moves_at_every_step() -> None:
    schedule = Cosine(**SUPPLIED, per="step")
    for step in range(50):
        assert schedule(step) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * step / 50)), rel=1e-13)


def test_cosine_ends_at_the_final_rate_and_stays_there() -> None:
    schedule = Cosine(**SUPPLIED, per="step", final_rate=0.1)
    assert schedule(0) == pytest.approx(0.4)
    assert schedule(25) == pytest.approx(0.25)
    assert schedule(50) == schedule(500) == pytest.approx(0.1)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_warmup_rises_by_the_step_and_reaches_the_base_rate(per: str) -> None:
    schedule = Cosine(**SUPPLIED, per=per, warmup_epochs=2)
    assert [schedule(step) for step in range(10)] == pytest.approx([0.4 * (step + 1) / 10 for step in range(10)])
    assert schedule(10) == pytest.approx(0.4)
    # The cosine is spread over the 8 epochs that are left.
    assert schedule(30) == pytest.approx(0.2)


def test_constant() -> None:
    assert {Constant(**SUPPLIED)(step) for step in range(50)} == {0.4}


def test_multi_step_falls_at_the_first_step_of_each_milestone() -> None:
    schedule = MultiStep(**SUPPLIED, milestones=(6, 8), gamma=0.1)
    assert [schedule(step) for step in (0, 29, 30, 39, 40, 49)] == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


def test_schedules_are_values() -> None:
    assert Cosine(**SUPPLIED) == Cosine(**SUPPLIED)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cosine(**SUPPLIED).epochs = 3  # type: ignore[misc]


def test_a_warmup_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"warmup_epochs 10 .* 10 epochs"):
        Cosine(**SUPPLIED, warmup_epochs=10)


def test_recipe_arguments_are_checked() -> None:
    assert SCHEDULES.check("MultiStep", {"milestones": [6, 8]}, "LRScheduler") == {"milestones": (6, 8)}
    for name, arguments in (
        ("Cosine", {"per": "batch"}),
        ("Cosine", {"final_rate": -0.1}),
        ("Cosine", {"warmup_epochs": -1}),
        ("Cosine", {"base_rate": 0.1}),
        ("MultiStep", {"milestones": [0]}),
        ("MultiStep", {}),
    ):
        with pytest.raises(UserError, match=r"LRScheduler\."):
            SCHEDULES.check(name, arguments, "LRScheduler")
