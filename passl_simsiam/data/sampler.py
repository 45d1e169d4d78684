"""Which samples make up which batch: pure functions of (count, seed, epoch, step, rank, world).

The order of an epoch is one global permutation, global batch k is `order[k * B : (k + 1) * B]`, and rank r of w takes
the strided share `[r::w]` of it. So the number of processes decides only who works on a sample, never which samples
meet in a batch, and a run can go on at any step without replaying the steps before it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passl_simsiam.data.keys import generator

Indices = NDArray[np.int64]

#: In place of a sample and a view in the key of the generator of an epoch's order: neither is ever negative.
EPOCH = -1


def epoch_order(count: int, seed: int, epoch: int, shuffle: bool) -> Indices:
    """All sample indices, int64 [count], in the order in which `epoch` visits them."""
    if not shuffle:
        return np.arange(count, dtype=np.int64)
    return generator(seed, epoch, EPOCH, EPOCH).permutation(count)


def steps_per_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """How many global batches of `batch_size` samples an epoch has; `drop_last` leaves out a short last one."""
    return count // batch_size if drop_last else -(-count // batch_size)


def batch_share(order: Indices, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Indices:
    """The samples of global batch `step` that rank `rank` of `world` works on, int64 [about batch_size / world].

    Empty when the last batch has fewer samples than there are ranks before this one.
    """
    return order[step * batch_size : (step + 1) * batch_size][rank::world]
