"""Momentum SGD with one learning rate a parameter group, and a state saved under structural names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import paddle
from annotated_types import Ge, Interval

from passl_simsiam.errors import UserError
from passl_simsiam.optim.groups import ParamGroup
from passl_simsiam.registry import OPTIMIZERS


@OPTIMIZERS.register
class Momentum:
    """v = momentum * v + (g + weight_decay * p); p = p - rate * v, as in PyTorch's SGD.

    Args:
        groups: the parameters, from `split_parameters`.
        momentum: 0.9 in the paper.
        weight_decay: applied to every parameter, batch norm and biases included, as published.
    """

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9,
        weight_decay: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        self._parameters = {name: p for group in groups for name, p in group.parameters}
        if len(self._parameters) != sum(len(group.parameters) for group in groups):
            raise ValueError("a parameter is in two groups")
        # A rate that is a Tensor is absolute to Paddle, where a number would be a factor on a common rate. The kernel
        # wants the parameters' type, but float32 for half precision.
        self._rates = {
            group.name: paddle.zeros([], "float64" if group.parameters[0][1].dtype == paddle.float64 else "float32")
            for group in groups
        }
        self._inner = paddle.optimizer.Momentum(
            momentum=momentum,
            weight_decay=float(weight_decay),
            # These dicts are Paddle's to keep: it writes into them.
            parameters=[
                {"params": [p for _, p in group.parameters], "learning_rate": self._rates[group.name]}
                for group in groups
            ],
        )
        # Velocities exist from the start, at zero: a checkpoint before the first step is like any other.
        for p in self._parameters.values():
            self._inner._add_accumulator("velocity", p)

    def step(self, rates: Mapping[str, float]) -> None:
        """Update every parameter that has a gradient; `rates` gives each group's learning rate by its name."""
        if rates.keys() != self._rates.keys():
            raise ValueError(f"rates for {sorted(rates)}, groups are {sorted(self._rates)}")
        for name, rate in rates.items():
            self._rates[name].fill_(rate)
        self._inner.step()

    def clear_grad(self) -> None:
        """Drop all gradients."""
        self._inner.clear_grad(set_to_zero=False)

    def state_dict(self) -> dict[str, paddle.Tensor]:
        """Each parameter's velocity under the parameter's structural name. Paddle's own keys count constructions."""
        velocity = self._inner._accumulators["velocity"]
        return {name: velocity[p.name] for name, p in self._parameters.items()}

    def load_state_dict(self, state: Mapping[str, paddle.Tensor]) -> None:
        """Take over the velocities of `state_dict`.

        Raises:
            UserError: other names or shapes than this optimizer's; nothing is loaded then.
        """
        own = self.state_dict()
        for what, names in (("missing", own.keys() - state.keys()), ("unknown", state.keys() - own.keys())):
            if names:
                raise UserError(f"optimizer state does not fit the model: {len(names)} {what}, such as {min(names)!r}")
        for name, velocity in own.items():
            if list(state[name].shape) != list(velocity.shape):
                raise UserError(
                    f"optimizer state does not fit the model: {name!r} has shape {list(state[name].shape)}, "
                    f"the model's is {list(velocity.shape)}"
                )
        for name, velocity in own.items():
            velocity.set_value(state[name].astype(velocity.dtype))
