"""Ranks: who this process is among those that `paddle.distributed.launch` started, and what they share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class World:
    """This process's place: `rank` of `size` processes that train one model together."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Only the main rank prints and writes."""
        return self.rank == 0


def from_environment() -> World:
    """The place that the launcher wrote into the environment; a plain process is the only rank."""
    return World(int(os.environ.get("PADDLE_TRAINER_ID", "0")), int(os.environ.get("PADDLE_TRAINERS_NUM", "1")))


def start(world: World) -> None:
    """Join the other ranks (gloo on CPU, NCCL on GPU); nothing to do alone."""
    if world.size > 1:
        import paddle.distributed as dist

        dist.init_parallel_env()


def total(values: Sequence[float], world: World) -> list[float]:
    """The sum over all ranks of each number. All ranks must call it."""
    if world.size == 1:
        return list(values)
    import paddle
    import paddle.distributed as dist

    tensor = paddle.to_tensor(list(values), dtype="float64")
    dist.all_reduce(tensor)
    return tensor.tolist()


def mean(value: float, world: World) -> float:
    """The mean of every rank's number. All ranks must call it."""
    return total([value], world)[0] / world.size


def gather_rows(array: np.ndarray, world: World) -> np.ndarray:
    """The rows of every rank's array, in rank order; ranks may hold different numbers of rows.

    Args:
        array: [n, ...]; the trailing shape and dtype agree on all ranks.
    """
    if world.size == 1:
        return array
    import paddle
    import paddle.distributed as dist

    counts: list[paddle.Tensor] = []
    dist.all_gather(counts, paddle.to_tensor([len(array)], dtype="int64"))
    rows = [int(count.item()) for count in counts]
    padded = np.zeros((max(rows), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, paddle.to_tensor(padded))
    return np.concatenate([part.numpy()[:n] for part, n in zip(parts, rows, strict=True)])
