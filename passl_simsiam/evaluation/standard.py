"""Features brought to mean 0 and standard deviation 1, as linear classifiers want them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Standard(NamedTuple):
    """Mean and standard deviation of each feature, float32 [d] each; constant features have an infinite one."""

    mean: Array
    std: Array

    @classmethod
    def of(cls, features: Array, rows: int = 8192) -> Standard:
        """Those of `features` [n, d], read a part at a time, twice."""
        parts = range(0, len(features), rows)
        mean = sum(np.asarray(features[i : i + rows], np.float64).sum(axis=0) for i in parts) / len(features)
        squares = sum(np.square(np.asarray(features[i : i + rows], np.float64) - mean).sum(axis=0) for i in parts)
        std = np.sqrt(squares / len(features))
        # What does not vary says nothing, and must not be blown up by its rounding errors.
        std = np.where(std > 1e-6 * np.abs(mean), std, np.inf)
        return cls(np.asarray(mean, np.float32), std.astype(np.float32))

    def __call__(self, features: Array) -> Array:
        """float32, standardised."""
        return (np.asarray(features, np.float32) - self.mean) / self.std
