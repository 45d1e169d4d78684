"""That a written model computes what the network does, before anybody relies on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from passl_simsiam.errors import UserError
from passl_simsiam.export.formats import Run
from passl_simsiam.export.network import Network

Array = np.ndarray[Any, Any]

BATCHES = (1, 3, 64)
TOLERANCE = 1e-4  # of the largest output; float32 sums in another order differ by about 1e-6 of it


@dataclass(frozen=True)
class Proof:
    """How a written model compares with the network.

    Attributes:
        images: that were compared.
        largest_difference: of any output. relative: the same over the largest output.
        other_first: images whose largest output is another one: with logits, whose class differs.
    """

    images: int
    largest_difference: float
    relative: float
    other_first: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Sample:
    """Images in batches, and what the network gives for them."""

    images: list[Array]
    expected: list[Array]


def noise(network: Network) -> Array:
    """Random pixels, the same each time: uint8 [sum of BATCHES, size, size, channels]."""
    shape = (sum(BATCHES), network.size, network.size, network.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def sample(network: Network, images: Array) -> Sample:
    """`images`, uint8 [n, size, size, channels], in batches of BATCHES; fewer images than those take are repeated.

    Raises:
        UserError: the network's own outputs are not finite.
    """
    chosen = images[np.arange(sum(BATCHES)) % len(images)]
    batches = np.split(chosen, np.cumsum(BATCHES)[:-1])
    expected = [network.run(batch) for batch in batches]
    if not all(np.isfinite(part).all() for part in expected):
        raise UserError("the network's outputs are not finite: its weights are broken, so it is not exported")
    return Sample(batches, expected)


def prove(network: Network, raw: bool, run: Run, given: Sample, what: str) -> Proof:
    """Compare a written model with the network on every batch.

    Args:
        raw: whether the written model takes uint8 pixels. run: the written model. what: for the error.

    Raises:
        UserError: it does not give the same, within TOLERANCE.
    """
    found = [run(batch if raw else network.normalized(batch)) for batch in given.images]
    if [part.shape for part in found] != [part.shape for part in given.expected]:
        raise UserError(f"{what} gives outputs of shape {found[-1].shape}, not {given.expected[-1].shape}: not kept")
    ours, theirs = np.concatenate(given.expected), np.concatenate(found)
    difference = float(np.abs(ours - theirs).max())
    relative = difference / (float(np.abs(ours).max()) or 1.0)
    if not relative <= TOLERANCE:
        raise UserError(f"{what} differs from the network by {relative:.1e} of its largest output: not kept")
    other_first = int((ours.argmax(1) != theirs.argmax(1)).sum())
    return Proof(len(ours), difference, relative, other_first)
