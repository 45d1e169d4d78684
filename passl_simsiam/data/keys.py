"""The randomness of one view of one sample, keyed so that nothing else can change it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

_WORD = 1 << 64


def generator(seed: int, epoch: int, index: int, view: int) -> np.random.Generator:
    """The generator of view `view` of sample `index` in epoch `epoch`.

    Philox is counter based: (seed, epoch) is its key and (view, index) the upper half of its 256-bit counter, so the
    streams of two views can never overlap, no hashing is needed, and the number of workers or processes, or the order
    in which samples are drawn, changes nothing. Negative arguments are taken modulo 2**64.
    """
    key = np.array([seed % _WORD, epoch % _WORD], np.uint64)
    counter = np.array([0, 0, view % _WORD, index % _WORD], np.uint64)
    return np.random.Generator(np.random.Philox(_Key(key), counter=counter))  # type: ignore[arg-type]


class _Key(ISeedSequence):
    """Hands Philox its key. Philox(key=...) gives the same stream, but first asks the system for entropy it drops."""

    def __init__(self, key: NDArray[np.uint64]) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[np.uint64]:
        return self.key
