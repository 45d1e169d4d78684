"""Weighted k-nearest-neighbour classification of features, exact (Wu et al. 2018, section 3.4, with cosine similarity).

Memory beyond the inputs and the result: one block of similarities between some queries and some of the bank
(`BLOCK_BYTES`), and what selects neighbours from it, together about 1.5 blocks (20, should all similarities be equal
to the last bit). The bank is read in place, a slice at a time, and may be a memory map or float16: 1.28 million
features of 2048 channels need no second copy.

With several ranks each holds a share of the bank, and what it finds there is merged with what the others find: exactly
the neighbours in the whole bank, of which no rank needs more than its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from passl_simsiam import distributed
from passl_simsiam.distributed import World

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 2**26
ALONE = World()


class KNNPrediction(NamedTuple):
    """What `knn_predict` returns.

    Attributes:
        classes: for each requested k, the predicted classes, int64 [M].
        notes: what a reader of the score must know (a k that was clamped).
    """

    classes: dict[int, Array]
    notes: list[str]


def knn_predict(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    *,
    ks: int | Sequence[int] = 200,
    temperature: float = 0.1,
    num_classes: int | None = None,
    chunk: int = 1024,
    rows: Array | None = None,
    world: World = ALONE,
) -> KNNPrediction:
    """Classify each query by a vote of its k most cosine-similar bank features, weighted by exp(similarity / T).

    Of equally similar neighbours the one with the lowest index is nearer; of classes with equal votes the lowest wins.

    Args:
        bank: float [N, d], not necessarily normalised.
        bank_labels: int [N], 0 <= label < `num_classes`.
        queries: float [M, d].
        ks: one or several numbers of neighbours; one above N is clamped to N, and noted.
        temperature: T, above 0.
        num_classes: largest label + 1 by default.
        chunk: queries at a time, at most.
        rows: int64 [N], rising: the places in the whole bank of this rank's share of it; all of it by default.
        world: the ranks that hold the other shares. All of them call this with the same queries and settings.

    Raises:
        ValueError: shapes, labels or values that make no sense; NaN or infinite features.
    """
    ks = [ks] if isinstance(ks, int) else list(ks)
    if bank_labels.shape != (len(bank),):
        raise ValueError(f"bank {bank.shape} needs one label a row, has {bank_labels.shape}")
    if not ks or min(ks) < 1 or temperature <= 0:
        raise ValueError(f"k must be at least 1 and the temperature above 0, got k={ks}, T={temperature}")
    shares = _Shares(len(bank), rows, world)
    labels = shares.whole(bank_labels)
    if not shares.total or labels.min() < 0:
        raise ValueError("the bank needs at least one row, and a label >= 0 for each")
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.max() >= classes:
        raise ValueError(f"label {labels.max()} with {classes} classes")

    notes = [f"k={k} is more than the bank holds; k={shares.total} used" for k in ks if k > shares.total]
    predictions = {k: np.empty(len(queries), np.int64) for k in ks}
    for part, similarity, index in _nearest(bank, queries, min(max(ks), shares.total), chunk, shares):
        # Relative to the nearest neighbour, so that a small temperature does not overflow.
        weights = np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)
        cells = np.arange(len(index))[:, None] * classes + labels[index]
        for k in ks:
            votes = np.bincount(cells[:, :k].ravel(), weights[:, :k].ravel(), minlength=len(index) * classes)
            predictions[k][part] = votes.reshape(len(index), classes).argmax(axis=1)
    return KNNPrediction(predictions, notes)


def nearest(
    bank: Array,
    queries: Array,
    k: int,
    *,
    chunk: int = 1024,
    rows: Array | None = None,
    world: World = ALONE,
) -> tuple[Array, Array]:
    """The k most cosine-similar bank features of each query, the nearest first; ties by the lowest index.

    Args:
        bank: float [N, d].
        queries: float [M, d].
        k: at least 1, at most the rows of the whole bank.
        chunk: queries at a time, at most.
        rows, world: as in `knn_predict`.

    Returns:
        Similarities, float32 [M, k], and places in the whole bank, int64 [M, k].

    Raises:
        ValueError: shapes that do not fit; NaN or infinite features.
    """
    shares = _Shares(len(bank), rows, world)
    if not 1 <= k <= shares.total:
        raise ValueError(f"k={k} neighbours of a bank of {shares.total}")
    similarity = np.empty((len(queries), k), np.float32)
    index = np.empty((len(queries), k), np.int64)
    for part, values, columns in _nearest(bank, queries, k, chunk, shares):
        similarity[part], index[part] = values, columns
    return similarity, index


class _Shares:
    """How the ranks share the bank."""

    def __init__(self, held: int, rows: Array | None, world: World) -> None:
        if rows is not None and (rows.shape != (held,) or (np.diff(rows) <= 0).any()):
            raise ValueError(f"a share of {held} rows needs as many rising places in the bank")
        if rows is None and world.size > 1:
            raise ValueError("with several ranks each must say which rows of the bank it holds")
        self._rows, self._world = rows, world
        self._places = None if rows is None else distributed.gather_rows(rows.astype(np.int64), world)
        self.total = held if self._places is None else len(self._places)

    def whole(self, values: Array) -> Array:
        """int64 values of this rank's rows -> those of the whole bank, by place; -1 where no rank has a row."""
        if self._places is None:
            return values
        whole = np.full(int(self._places.max(initial=-1)) + 1, -1, np.int64)
        whole[self._places] = distributed.gather_rows(values.astype(np.int64), self._world)
        return whole

    def merge(self, best: Array, k: int) -> Array:
        """The k smallest keys of each row over all ranks; [m, <=k] of this rank's rows -> [m, k] of places."""
        if self._rows is None:
            return best
        similarity, index = _unpack(best)
        best = _pack(similarity, self._rows[index])
        if self._world.size == 1:
            return best
        padded = np.full((len(best), k), np.iinfo(np.uint64).max)
        padded[:, : best.shape[1]] = best
        # Paddle has no uint64.
        parts = distributed.gather_rows(padded.view(np.int64), self._world).view(np.uint64)
        keys = parts.reshape(self._world.size, len(best), k).transpose(1, 0, 2).reshape(len(best), -1)
        return np.sort(keys, axis=1)[:, :k]


def _nearest(bank: Array, queries: Array, k: int, chunk: int, shares: _Shares) -> Iterator[tuple[slice, Array, Array]]:
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(f"bank {bank.shape} and queries {queries.shape} do not fit [N, d] and [M, d]")
    scale = _inverse_norms(bank)
    chunk = max(1, min(chunk, len(queries)))
    width = max(1, min(BLOCK_BYTES // (4 * chunk), len(bank)))  # bank rows a block
    held = min(k, len(bank))
    # One buffer for all blocks: fresh pages for each would take as long as the matrix product.
    buffer = np.empty(chunk * width, np.float32)
    for low in range(0, len(queries), chunk):
        part = slice(low, min(low + chunk, len(queries)))
        query = np.asarray(queries[part], np.float32)
        query = query * _inverse_norms(query)[:, None]
        best = np.empty((len(query), 0), np.uint64)
        for start in range(0, len(bank), width):
            slab = np.asarray(bank[start : start + width], np.float32)
            block = buffer[: len(query) * len(slab)].reshape(len(query), len(slab))
            np.matmul(query, slab.T, out=block)
            block *= scale[start : start + width]
            best = _merge(best, block, start, held)
        yield part, *_unpack(shares.merge(best, k))


def _merge(best: Array, block: Array, start: int, k: int) -> Array:
    """The k smallest keys of each row of `best` [m, <=k] and `block` [m, b], whose columns are bank rows from `start`.

    Sorting whole rows would take longer than the matrix product, so the few candidates are singled out first.
    """
    bound = _lower_bound(block, k)
    if best.shape[1] == k:
        # Strictly above the k-th so far: an equal value has a higher index here.
        bound = np.maximum(bound, np.nextafter(_unpack(best[:, -1])[0], np.float32(np.inf)))
    flat = np.flatnonzero(block >= bound[:, None])
    row, column = np.divmod(flat, block.shape[1])
    count = np.bincount(row, minlength=len(block))
    place = best.shape[1] + np.arange(len(row)) - (np.cumsum(count) - count)[row]
    keys = np.full((len(block), best.shape[1] + count.max(initial=0)), np.iinfo(np.uint64).max)
    keys[:, : best.shape[1]] = best
    keys[row, place] = _pack(block.ravel()[flat], start + column)
    keys.sort(axis=1)
    return keys[:, :k]


def _pack(similarity: Array, index: Array) -> Array:
    """One uint64 a neighbour that sorts by falling similarity, then by rising index.

    The upper half is the negated float32, its bits turned so that they sort as an integer; the lower half the index.
    """
    bits = (0 - similarity).view(np.uint32)  # 0 - x has no negative zero, which would part equals
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(2**31))
    return ordered.astype(np.uint64) << np.uint64(32) | index.astype(np.uint64)


def _unpack(keys: Array) -> tuple[Array, Array]:
    """Similarities, float32, and indices, int64, of `_pack`ed neighbours."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered >> 31, ordered & np.uint32(2**31 - 1), ~ordered)
    return 0 - bits.view(np.float32), (keys & np.uint64(2**32 - 1)).astype(np.int64)


def _lower_bound(block: Array, k: int) -> Array:
    """A bound that at least k values of each row of `block` reach, close to the k-th largest.

    The k-th largest of the maxima of at least 4k disjoint groups of columns. Groups are strided: neighbours of one
    class often lie side by side in the bank, and would share a group.
    """
    groups = max(4 * k, 512)
    rounds = block.shape[1] // groups
    if rounds < 2:
        return np.full(len(block), -np.inf, np.float32)
    maxima = block[:, : rounds * groups].reshape(len(block), rounds, groups).max(axis=1)
    return np.partition(maxima, groups - k, axis=1)[:, groups - k]


def _inverse_norms(features: Array, rows: int = 8192) -> Array:
    """1/|x| of each row, float32, 0 for a zero row (similar to nothing)."""
    norms = np.empty(len(features), np.float32)
    for low in range(0, len(features), rows):
        part = np.asarray(features[low : low + rows], np.float32)
        norms[low : low + rows] = np.sqrt(np.einsum("nd,nd->n", part, part))
    if not np.isfinite(norms).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(norms))} of {len(norms)} features are NaN or infinite")
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
