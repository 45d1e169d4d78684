"""Retrieval: of the images nearest to an image, how many are of its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from passl_simsiam.evaluation.knn import nearest

Array = np.ndarray[Any, Any]


def precision_at(
    bank: Array, bank_labels: Array, queries: Array, query_labels: Array, ks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """For each k the share of a query's k most cosine-similar bank images that are of its class, mean over queries.

    The queries are not in the bank. A k above the size of the bank has no precision and is left out.

    Args:
        bank: float [N, d].
        bank_labels: int [N].
        queries: float [M, d].
        query_labels: int [M].
        ks: each at least 1.

    Raises:
        ValueError: shapes that do not fit; NaN or infinite features; no k that the bank has images for.
    """
    usable = [k for k in ks if k <= len(bank)]
    if not usable or bank_labels.shape != (len(bank),) or query_labels.shape != (len(queries),) or not len(queries):
        raise ValueError(f"k of {ks} for {bank.shape}, {bank_labels.shape} and {queries.shape}, {query_labels.shape}")
    _, index = nearest(bank, queries, max(usable))
    hits = bank_labels[index] == query_labels[:, None]
    return {k: float(hits[:, :k].mean()) for k in usable}
