"""Batches for the trainer: made here or by watched worker processes, the same ones either way."""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from passl_simsiam.data.bad import BadSample, BadSamples
from passl_simsiam.data.pool import HELD, LoaderError, Pool
from passl_simsiam.data.sampler import Indices, batch_share, epoch_order, steps_per_epoch
from passl_simsiam.data.samples import MISSING, SampleMaker
from passl_simsiam.data.shared import available_memory
from passl_simsiam.data.worker import Chunk, Layout
from passl_simsiam.errors import UserError

if TYPE_CHECKING:
    from passl_simsiam.data.base import Dataset, Transform

__all__ = ["BadSample", "Batch", "Loader", "LoaderError"]

log = logging.getLogger(__name__)

#: Rows of a batch that a worker makes in one go: long enough to hide the message, short enough to share a batch out.
CHUNK = 32
#: Batches in shared memory besides the one that the trainer has.
AHEAD = 2


class Batch(TypedDict):
    """`views`: num_views arrays uint8 [b, height, width, channels]; `label`: int64 [b], -1 where unknown; `index`:
    int64 [b], the samples that the rows hold."""

    views: list[NDArray[np.uint8]]
    label: NDArray[np.int64]
    index: NDArray[np.int64]


class Loader:
    """Batches of a data set, epoch by epoch, in an order and with views that depend on (seed, epoch) alone.

    With `num_workers=0` the trainer's process makes them; otherwise worker processes do, bitwise the same. Workers
    start with the first epoch, stay for the next ones and end with the loader or the trainer, however that dies. They
    read a copy of the data set made at that time. A worker that dies or hangs is replaced (see `Pool`).

    A sample that cannot be read or transformed is logged once and counted in `bad`. In training another one takes its
    place; in evaluation (`shuffle=False`), where none may count twice, the batch is a row shorter.

    Args:
        dataset: read by index.
        transform: from an image to views; a `Switch` where the recipe changes it after some epochs.
        batch_size: samples of a global batch, over all ranks.
        shuffle: a new order every epoch (training).
        drop_last: leave out a last batch that is not full.
        seed: of the run.
        num_workers: processes of this rank that make batches.
        rank, world: this process and how many there are; rank r takes the share [r::world] of every batch.
        max_bad_fraction: the run ends when more than this share of the data set is known to be bad.
        timeout: seconds at one sample after which a worker counts as hung.
        max_restarts: so many workers may be replaced within an hour.

    Raises:
        UserError: for values that cannot work, and for a batch larger than the data set with `drop_last`.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        *,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        num_workers: int = 0,
        rank: int = 0,
        world: int = 1,
        max_bad_fraction: float = 0.01,
        timeout: float = 120.0,
        max_restarts: int = 20,
    ) -> None:
        self.waited = 0.0
        self.bad = BadSamples(len(dataset), max_bad_fraction)
        self._dataset, self._transform = dataset, transform
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._rank, self._world = rank, world
        self._timeout, self._max_restarts, self._num_workers = timeout, max_restarts, num_workers
        self._maker = SampleMaker(dataset, transform, seed, replace=shuffle)
        self._steps = self._check(len(dataset), drop_last, max_bad_fraction)
        self._turn = 0
        self._pool: Pool | None = None

    def _check(self, count: int, drop_last: bool, max_bad_fraction: float) -> int:
        """Steps of an epoch, all of them with at least one sample for this rank."""
        for name, value, least in (
            ("batch_size", self._batch_size, 1),
            ("num_workers", self._num_workers, 0),
            ("timeout", self._timeout, 0.01),
            ("max_restarts", self._max_restarts, 0),
            ("max_bad_fraction", max_bad_fraction, 0),
        ):
            if value < least:
                raise UserError(f"DataLoader: {name} is {value}; it must be at least {least}")
        if count == 0:
            raise UserError("DataLoader: the data set has no samples")
        if self._batch_size % self._world and self._shuffle:
            raise UserError(
                f"DataLoader: batch_size {self._batch_size} cannot be shared out evenly to {self._world} processes"
            )
        steps = steps_per_epoch(count, self._batch_size, drop_last)
        if steps == 0:
            raise UserError(
                f"DataLoader: batch_size {self._batch_size} is larger than the data set ({count} samples), "
                "and drop_last leaves nothing; use a smaller batch_size"
            )
        short = count % self._batch_size
        if not drop_last and 0 < short <= self._rank:
            # This rank's share of the last batch is empty.
            if self._shuffle:
                raise UserError(
                    f"DataLoader: the last batch has {short} samples for {self._world} processes; set drop_last: true"
                )
            steps -= 1
        return steps

    def __len__(self) -> int:
        """Steps an epoch. In evaluation a rank whose share of the last batch is empty has one less than the others."""
        return self._steps

    def images(self, step: int) -> int:
        """Samples of the global batch at `step` of an epoch: fewer than the batch size in a last one not dropped."""
        return min(self._batch_size, len(self._dataset) - step * self._batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` (counted from 0) from step `start` on.

        A batch's arrays are valid until the next one is drawn. An epoch may be left half-way; the next call of this
        method ends it.

        Raises:
            UserError: while iterating, when too many samples are bad or the recipe is wrong.
            LoaderError: likewise, when too many workers are lost.
        """
        if epoch < 0 or not 0 <= start <= self._steps:
            raise ValueError(f"epoch {epoch}, start {start}: not within {self._steps} steps an epoch")
        self._turn += 1
        make = self._alone if self._num_workers == 0 else self._shared
        return self._timed(make(epoch, start), self._turn)

    def _timed(self, batches: Iterator[Batch], turn: int) -> Iterator[Batch]:
        while True:
            if turn != self._turn:
                raise RuntimeError("this epoch has ended: the loader has begun another one, or was closed")
            before = time.perf_counter()
            try:
                batch = next(batches, None)
            except (UserError, LoaderError):
                self.close()
                raise
            finally:
                self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def _alone(self, epoch: int, start: int) -> Iterator[Batch]:
        order = self._order(epoch)
        for step in range(start, self._steps):
            indices = self._share(order, step)
            views = [np.empty((len(indices), *self._view_shape), np.uint8) for _ in range(self._transform.num_views)]
            used, bad = self._maker.fill(epoch, indices, views)
            for sample in bad:
                self.bad.add(sample)
            yield self._batch(views, used)

    def _shared(self, epoch: int, start: int) -> Iterator[Batch]:
        pool = self._pool = self._pool or self._start_workers()
        pool.abandon()
        order = self._order(epoch)
        free = deque(range(pool.layout.slots))
        filling: dict[int, _Filling] = {}
        ahead = iter(range(start, self._steps))
        for step in range(start, self._steps):
            while free and (new := next(ahead, None)) is not None:
                indices = self._share(order, new)
                filling[new] = _Filling(free.popleft(), np.full(len(indices), MISSING, np.int64), len(indices))
                for row in range(0, len(indices), CHUNK):
                    pool.submit(Chunk(epoch, new, filling[new].slot, row, indices[row : row + CHUNK]))
            current = filling[step]
            while current.missing:
                for chunk, used in pool.collect():
                    filling[chunk.step].place(chunk.start, used)
            yield self._batch([view[: len(current.used)] for view in pool.batches[current.slot]], current.used)
            free.append(current.slot)
            del filling[step]

    def _order(self, epoch: int) -> Indices:
        return epoch_order(len(self._dataset), self._seed, epoch, self._shuffle)

    def _share(self, order: Indices, step: int) -> Indices:
        return batch_share(order, step, self._batch_size, self._rank, self._world)

    @property
    def _view_shape(self) -> tuple[int, int, int]:
        return self._transform.size, self._transform.size, self._dataset.in_channels

    def _batch(self, views: list[NDArray[np.uint8]], used: Indices) -> Batch:
        if (used == MISSING).any():
            if self._shuffle:
                raise self.bad.error("nearly no sample can be read")
            kept = used != MISSING
            views, used = [view[kept] for view in views], used[kept]
        labels = self._dataset.labels
        label = np.full(len(used), -1, np.int64) if labels is None else labels[used]
        return {"views": views, "label": label, "index": used}

    def _start_workers(self) -> Pool:
        rows = -(-self._batch_size // self._world)
        busy = -(-HELD * self._num_workers // -(-rows // CHUNK))  # batches that keep all the workers busy
        slots = 1 + max(AHEAD, busy)
        layout = _fit(Layout(self._num_workers, slots, self._transform.num_views, (rows, *self._view_shape)))
        pool = Pool(self._maker, layout, timeout=self._timeout, max_restarts=self._max_restarts, bad=self.bad)
        self._end_workers = weakref.finalize(self, pool.end)  # also at exit
        return pool

    def close(self) -> None:
        """End the workers and free their memory; a later `epoch` starts new ones."""
        self._turn += 1
        if self._pool is not None:
            self._end_workers()
            self._pool = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass
class _Filling:
    """A batch that is being put together in a slot of the shared memory."""

    slot: int
    used: Indices
    missing: int

    def place(self, start: int, used: Indices) -> None:
        self.used[start : start + len(used)] = used
        self.missing -= len(used)


def _fit(layout: Layout) -> Layout:
    """`layout`, or with fewer batches where memory is short. Raises UserError where not even two fit."""
    free = available_memory()
    log.info(
        "%d data workers put together %d batches of %.1f MB in shared memory; %s is free",
        layout.workers,
        layout.slots,
        layout.slot_bytes / 2**20,
        "an unknown amount" if free is None else f"{free / 2**20:.0f} MB",
    )
    if free is None or layout.size <= free // 2:
        return layout
    slots = min(layout.slots, int(free // 2 // layout.slot_bytes))
    if slots < 2:
        raise UserError(
            f"DataLoader: two batches of {layout.slot_bytes / 2**20:.0f} MB need more than half of the "
            f"{free / 2**20:.0f} MB of free memory; use a smaller batch_size, or num_workers: 0"
        )
    log.warning("memory is short: %d batches are prepared ahead instead of %d", slots - 1, layout.slots - 1)
    return replace(layout, slots=slots)
