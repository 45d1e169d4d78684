"""Which parameters train, under which names, and at which share of the scheduled rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import paddle
from paddle import nn

from passl_simsiam.errors import UserError, suggest
from passl_simsiam.optim.schedules import Schedule

Rate = Literal["schedule", "constant"]


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate.

    Attributes:
        name: of the group, for logs and for `step(rates)`.
        parameters: (structural name, parameter) pairs, as `named_parameters` gives them.
        rate: "schedule" follows the schedule; "constant" stays at its base rate, without warm-up either.
        multiplier: on the rate, whichever it is.
    """

    name: str
    parameters: Sequence[tuple[str, paddle.Tensor]]
    rate: Rate = "schedule"
    multiplier: float = 1.0

    def rate_at(self, schedule: Schedule, step: int) -> float:
        return self.multiplier * (schedule.base_rate if self.rate == "constant" else schedule(step))


@dataclass(frozen=True)
class GroupRule:
    """A group of its own for the parameters of the sub-layer at `prefix` ("head", "backbone.layer4")."""

    name: str
    prefix: str
    rate: Rate = "schedule"
    multiplier: float = 1.0

    def covers(self, parameter: str) -> bool:
        return parameter == self.prefix or parameter.startswith(self.prefix + ".")


def split_parameters(model: nn.Layer, rules: Iterable[GroupRule] = (), rest: str = "main") -> list[ParamGroup]:
    """The model's trainable parameters in groups: `rest`, then one a rule; of two rules, the first takes a parameter.

    Frozen parameters and batch-norm statistics (stop_gradient) are in none. Take the model before DataParallel wraps
    it: names are structural.

    Raises:
        UserError: a rule that covers no trainable parameter, or a model without any.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]
    if not trainable:
        raise UserError("the model has no parameter to train: all are frozen")
    groups, remaining = [], trainable
    for rule in rules:
        taken = [item for item in remaining if rule.covers(item[0])]
        if not taken:
            parts = {name.split(".")[0] for name, _ in remaining}
            raise UserError(
                f"parameter group {rule.name!r}: no trainable parameter under {rule.prefix!r}; "
                f"{suggest(rule.prefix, parts)}"
            )
        remaining = [item for item in remaining if not rule.covers(item[0])]
        groups.append(ParamGroup(rule.name, taken, rule.rate, rule.multiplier))
    return [ParamGroup(rest, remaining), *groups] if remaining else groups


def rates_at(groups: Iterable[ParamGroup], schedule: Schedule, step: int) -> dict[str, float]:
    """Each group's learning rate at `step`, by group name: what an optimizer's `step` takes."""
    return {group.name: group.rate_at(schedule, step) for group in groups}
