"""Learning rates as pure functions of the step: nothing to save, nothing to resume.

The builder supplies `base_rate` (the recipe's rate, scaled by global batch / 256), `epochs` and `steps_per_epoch`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from passl_simsiam.errors import UserError
from passl_simsiam.registry import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Step, counted from 0 -> learning rate.

    A linear warm-up of W = warmup_epochs * steps_per_epoch steps comes first: base_rate * (step + 1) / W.

    Raises:
        UserError: a warm-up that leaves no epoch after it.
    """

    base_rate: float
    epochs: int
    steps_per_epoch: int
    warmup_epochs: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise UserError(f"warmup_epochs {self.warmup_epochs} leaves nothing of the run's {self.epochs} epochs")

    def __call__(self, step: int) -> float:
        warmup_steps = self.warmup_epochs * self.steps_per_epoch
        if step < warmup_steps:
            return self.base_rate * (step + 1) / warmup_steps
        return self.after_warmup(step)

    @abstractmethod
    def after_warmup(self, step: int) -> float:
        """The rate at `step`, which still counts from the start of the run."""


@SCHEDULES.register
@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """base_rate throughout."""

    def after_warmup(self, step: int) -> float:
        return self.base_rate


@SCHEDULES.register
@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from base_rate to final_rate (Loshchilov and Hutter 2017, eq. 5, without restarts).

    Args:
        per: "epoch" holds the rate through each epoch, as SimSiam's published code does; "step" moves it at each step.
        final_rate: what the cosine ends at; an absolute rate, not scaled by the batch size.
    """

    per: Literal["epoch", "step"] = "epoch"
    final_rate: Annotated[float, Ge(0)] = 0.0

    def after_warmup(self, step: int) -> float:
        epoch = step // self.steps_per_epoch if self.per == "epoch" else step / self.steps_per_epoch
        done = min(1.0, (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs))
        return self.final_rate + (self.base_rate - self.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


@SCHEDULES.register
@dataclass(frozen=True, kw_only=True)
class MultiStep(Schedule):
    """base_rate * gamma ** (number of milestones passed).

    Args:
        milestones: epochs, counted from 0, from whose first step on the rate is lower by one more factor.
        gamma: the factor.
    """

    milestones: tuple[Annotated[int, Gt(0)], ...]
    gamma: Annotated[float, Gt(0)] = 0.1

    def after_warmup(self, step: int) -> float:
        epoch = step // self.steps_per_epoch
        return self.base_rate * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
