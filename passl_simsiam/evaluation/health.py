"""Signs of collapse that need no labels, on a sample of features or embeddings [n, d]."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def feature_std(z: Array) -> float:
    """Standard deviation of each channel of z/|z| over the sample, averaged over channels.

    About 1/sqrt(d) for directions spread evenly over the sphere, 0 when all are equal (SimSiam, section 4.1, figure 2).

    Args:
        z: float [n, d].
    """
    return float(channel_std(z).mean())


def channel_std(z: Array) -> Array:
    """Standard deviation of each channel of z/|z| over the sample: float64 [d] from float [n, d]."""
    return _unit(z).std(axis=0)


def effective_rank(features: Array) -> float:
    """exp of the entropy of the normalised singular values, between 1 and min(n, d) (Roy and Vetterli 2007, RankMe).

    The features are not centred: around a constant they would show only noise, of full rank, and hide the collapse.

    Args:
        features: float [n, d]. All zero gives 0.
    """
    x = np.asarray(features, np.float64)
    # Singular values by the smaller Gram matrix: several times faster than the SVD. Those below 1e-8 of the largest
    # are lost in rounding, and too small to matter to the entropy.
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    total = singular.sum()
    if total == 0:
        return 0.0
    p = singular[singular > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def alignment(a: Array, b: Array) -> float:
    """Mean squared distance between the normalised features of two views of the same images; 0 is best.

    Wang and Isola 2020, with alpha = 2.

    Args:
        a: float [n, d].
        b: float [n, d], row by row of the same images.
    """
    return float(np.square(_unit(a) - _unit(b)).sum(axis=1).mean())


def uniformity(z: Array, t: float = 2.0) -> float:
    """log of the mean over pairs of exp(-t * squared distance) of normalised features; lower is more uniform.

    0 when all features are equal. Wang and Isola 2020.

    Args:
        z: float [n, d], n >= 2.
        t: 1 / width of the kernel.
    """
    unit = _unit(z)
    upper = np.triu_indices(len(unit), k=1)
    distance = np.clip(2 - 2 * (unit @ unit.T)[upper], 0, None)
    return float(np.log(np.exp(-t * distance).mean()))


def mean_cosine(a: Array, b: Array) -> float:
    """Mean cosine similarity of corresponding rows of two float arrays [n, d]."""
    return float((_unit(a) * _unit(b)).sum(axis=1).mean())


def _unit(z: Array) -> Array:
    """Rows of length 1, float64; a zero row stays zero."""
    x = np.asarray(z, np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
