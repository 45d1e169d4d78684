"""The mean and standard deviation of each channel of a data set, estimated once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from passl_simsiam.data.base import Dataset
from passl_simsiam.data.decode import BadImage
from passl_simsiam.errors import UserError

SAMPLES = 2000
# A channel that is constant would be divided by zero.
_MIN_STD = 1e-3


class Statistics(NamedTuple):
    """Means and standard deviations in 0..1, one a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def estimate(dataset: Dataset, samples: int = SAMPLES) -> Statistics:
    """Over the pixels of at most `samples` images, evenly spread; every image counts the same. Skips bad images.

    Raises UserError when no image can be read.
    """
    first = np.zeros(dataset.in_channels)
    second = np.zeros(dataset.in_channels)
    read = 0
    for index in np.linspace(0, len(dataset) - 1, min(samples, len(dataset))).astype(int).tolist():
        try:
            pixels = dataset.read(index).reshape(-1, dataset.in_channels) / 255.0
        except BadImage:
            continue
        first += pixels.mean(axis=0)
        second += np.square(pixels).mean(axis=0)
        read += 1
    if not read:
        raise UserError(f"mean and std: auto: none of the images can be read; the first is {dataset.name(0)}")
    mean = first / read
    std = np.sqrt(np.maximum(second / read - np.square(mean), _MIN_STD**2))
    return Statistics(*(tuple(round(float(value), 4) for value in values) for values in (mean, std)))


def cached(dataset: Dataset, key: Iterable[bytes]) -> Statistics:
    """`estimate(dataset)`, from the user's cache folder if it was made before for the same `key`.

    The folder is $XDG_CACHE_HOME/passl_simsiam, by default ~/.cache/passl_simsiam. If it cannot be written to, the
    estimate is made again at the next start.
    """
    digest = hashlib.sha256()
    for part in key:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    file = _cache_folder() / f"statistics-{digest.hexdigest()[:32]}.json"
    try:
        content = json.loads(file.read_text())
        return Statistics(tuple(content["mean"]), tuple(content["std"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    statistics = estimate(dataset)
    with contextlib.suppress(OSError):
        _write(file, json.dumps(statistics._asdict()))
    return statistics


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "passl_simsiam"


def _write(file: Path, text: str) -> None:
    """Atomically, for several processes may start at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as aside:
        aside.write(text)
    Path(aside.name).replace(file)
