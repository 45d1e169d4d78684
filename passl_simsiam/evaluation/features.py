"""From batches of images to one array of features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Features(NamedTuple):
    """Features with what they belong to.

    Attributes:
        features: float32 [n, d].
        labels: int64 [n], -1 where unknown.
        indices: int64 [n], positions in the data set.
    """

    features: Array
    labels: Array
    indices: Array


def extract(
    encode: Callable[[Array], Any], batches: Iterable[Mapping[str, Any]], *, count: int | None = None
) -> Features:
    """Features of the first view of every image.

    Args:
        encode: takes uint8 [b, H, W, C], returns float [b, d] as an array or a tensor.
        batches: of {"views": [uint8 [b, H, W, C], ...], "label": int64 [b], "index": int64 [b]}.
        count: images in all `batches`. With it features go straight to their place; without it they are held twice for
            a moment at the end.

    Returns:
        The features in the order of the batches.

    Raises:
        ValueError: no batches, or not `count` images in them.
    """
    parts: list[Array] = []
    labels: list[Array] = []
    index: list[Array] = []
    whole: Array | None = None
    filled = 0
    for batch in batches:
        part = np.asarray(encode(batch["views"][0]), np.float32)
        if count is None:
            parts.append(part)
        else:
            whole = np.empty((count, part.shape[1]), np.float32) if whole is None else whole
            if filled + len(part) > count:
                raise ValueError(f"more than the {count} images that were announced")
            whole[filled : filled + len(part)] = part
        filled += len(part)
        # Copies: a loader may use a batch's arrays again for the next one.
        labels.append(np.array(batch["label"], np.int64))
        index.append(np.array(batch["index"], np.int64))
    if not filled or count not in (None, filled):
        raise ValueError(f"{filled} images, expected {'some' if count is None else count}")
    return Features(np.concatenate(parts) if whole is None else whole, np.concatenate(labels), np.concatenate(index))


def raw_pixels(images: Array) -> Array:
    """The baseline encoder: pixels scaled to 0..1 and flattened, uint8 [b, H, W, C] to float32 [b, H*W*C]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255
