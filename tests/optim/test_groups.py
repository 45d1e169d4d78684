"""Parameter groups: who is in which, and each one's rate."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn

from passl_simsiam.errors import UserError
from passl_simsiam.optim.groups import GroupRule, ParamGroup, rates_at, split_parameters
from passl_simsiam.optim.schedules import Cosine

SCHEDULE = Cosine(base_rate=0.2, epochs=10, steps_per_epoch=4, warmup_epochs=2)


class Model(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4))
        self.head = nn.Linear(4, 2)
        self.header = nn.Linear(4, 2)
        self.header.bias.stop_gradient = True


def names(groups: list[ParamGroup]) -> dict[str, list[str]]:
    return {group.name: [name for name, _ in group.parameters] for group in groups}


def test_rules_take_their_part_and_the_rest_is_one_group() -> None:
    """A prefix is a whole path component, and neither frozen parameters nor batch-norm statistics train."""
    groups = split_parameters(Model(), [GroupRule("predictor", "head", rate="constant")], rest="encoder")
    assert names(groups) == {
        "encoder": ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "header.weight"],
        "predictor": ["head.weight", "head.bias"],
    }


def test_of_two_rules_the_first_takes_a_parameter() -> None:
    rules = [GroupRule("bias", "backbone.0.bias"), GroupRule("trunk", "backbone")]
    groups = names(split_parameters(Model(), rules))
    assert groups["bias"] == ["backbone.0.bias"]
    assert groups["trunk"] == ["backbone.0.weight", "backbone.1.weight", "backbone.1.bias"]


def test_a_group_for_everything_leaves_no_empty_rest() -> None:
    assert list(names(split_parameters(nn.Sequential(nn.Linear(2, 2)), [GroupRule("all", "0")]))) == ["all"]


def test_a_rule_that_covers_nothing_is_refused_with_the_likely_intent() -> None:
    with pytest.raises(UserError, match=r"group 'fast'.*'heads'.*did you mean 'head'"):
        split_parameters(Model(), [GroupRule("fast", "heads")])


def test_a_model_without_trainable_parameters_is_refused() -> None:
    model = nn.Linear(2, 2)
    for parameter in model.parameters():
        parameter.stop_gradient = True
    with pytest.raises(UserError, match="no parameter to train"):
        split_parameters(model)


@pytest.mark.parametrize("step", [0, 7, 8, 20, 39])
def test_constant_groups_ignore_schedule_and_warmup_and_multipliers_apply_to_both(step: int) -> None:
    parameter = [("w", paddle.zeros([1]))]
    groups = [
        ParamGroup("encoder", parameter),
        ParamGroup("predictor", parameter, rate="constant"),
        ParamGroup("slow", parameter, multiplier=0.1),
        ParamGroup("fast", parameter, rate="constant", multiplier=10),
    ]
    scheduled = SCHEDULE(step)
    assert rates_at(groups, SCHEDULE, step) == pytest.approx(
        {"encoder": scheduled, "predictor": 0.2, "slow": 0.1 * scheduled, "fast": 2.0}
    )
