"""The momentum that a converted checkpoint starts with, by our parameters' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from passl_simsiam.checkpoint.match import Match
from passl_simsiam.checkpoint.render import parameters
from passl_simsiam.errors import UserError

#: The last bias of a projector of two and of three layers. It does not train where batch norm behind it takes it away.
FROZEN = {"neck.3.bias": "neck.4._mean", "neck.6.bias": "neck.7._mean"}


def no_momentum(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Zeros for every parameter of ours that trains, as a training has at its beginning."""
    last = "neck.6.bias" if "neck.6.weight" in weights else "neck.3.bias"
    frozen = {last} if FROZEN[last] in weights else set()
    return {
        name: np.zeros(array.shape, array.dtype)
        for name, array in weights.items()
        if not name.endswith(("._mean", "._variance")) and name not in frozen
    }


def official_momentum(
    beside: Mapping[str, Any], tensors: Mapping[str, np.ndarray], found: Match
) -> dict[str, np.ndarray]:
    """torch's SGD state as velocities, which its formula and ours define alike: v = momentum * v + g + decay * p.

    torch numbers parameters through all groups, in the order of the model's parameters, which is that of the state
    dict: encoder, then predictor. A parameter without a state never had a gradient: the projector's last bias.

    Args:
        beside: what lies in the file beside the weights, "optimizer" among it.
        tensors: the weights by the file's names, in its order.

    Returns:
        Velocity by our structural name, in our orientation, of every parameter that trains.

    Raises:
        UserError: there is no such state, or it does not fit the weights.
    """
    optimizer = beside.get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("param_groups"), list):
        raise UserError("the file holds no optimizer of torch's; convert it without the optimizer")
    try:
        numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
        buffers = {number: state.get("momentum_buffer") for number, state in optimizer["state"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError("the file's optimizer is not a state of torch's SGD") from error
    order = {name: place for place, name in enumerate(tensors)}
    ours = sorted(parameters(found.names), key=lambda parameter: order[parameter[0]])
    if len(numbers) != len(ours):
        raise UserError(f"the optimizer holds {len(numbers)} parameters, the weights are {len(ours)}")
    velocity: dict[str, np.ndarray] = {}
    frozen = []
    for number, (name, our_name, kind) in zip(numbers, ours, strict=True):
        buffer = buffers.get(number)
        if buffer is None:
            frozen.append(our_name)
        elif not isinstance(buffer, np.ndarray) or buffer.shape != tensors[name].shape:
            raise UserError(f"the momentum of {name} has another shape than the weight")
        else:
            velocity[our_name] = buffer.T if kind == "linear" and buffer.ndim == 2 else buffer
    if not set(frozen) <= FROZEN.keys():
        raise UserError(f"the optimizer has no momentum for {', '.join(frozen[:5])}: it has not trained these weights")
    return velocity
