"""Scikit-learn's bundled digits: 1,797 scanned handwritten digits of 8x8 pixels, real and without a download."""

from __future__ import annotations

import numpy as np

from passl_simsiam.data.base import Dataset, canonical_split, per_channel
from passl_simsiam.errors import UserError
from passl_simsiam.registry import DATASETS

_VAL_SHARE = 0.2


@DATASETS.register
class Digits(Dataset):
    """Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, UCI), as scikit-learn bundles it.

    The 0..16 grey levels are scaled to 0..255 and repeated over three channels. The split is fixed and stratified: in
    each class, in the bundled order, every fifth image (the 1st, 6th, 11th ...) is validation. That gives 1,433
    training and 364 validation images.

    Args:
        split: "train", "val" (or "test") or "all".
        mean: of each channel in 0..1; by default that of the whole set.
        std: likewise.
    """

    def __init__(
        self, split: str = "train", mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
    ) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError("Digits needs scikit-learn: pip install scikit-learn") from error
        split = canonical_split(split, ("train", "val", "all"), "Digits")
        images, targets = load_digits(return_X_y=True)
        chosen = np.ones(len(targets), bool) if split == "all" else _is_val(targets) == (split == "val")
        grey = np.rint(images[chosen].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        self.images = np.repeat(grey, 3, axis=3)
        self.labels = targets[chosen].astype(np.int64)
        self.classes = [str(digit) for digit in range(10)]
        self._mean = per_channel(mean, (0.3053,) * 3, "Digits: mean", positive=False)
        self._std = per_channel(std, (0.3759,) * 3, "Digits: std", positive=True)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    @property
    def mean(self) -> tuple[float, ...]:
        return self._mean

    @property
    def std(self) -> tuple[float, ...]:
        return self._std


def _is_val(targets: np.ndarray) -> np.ndarray:
    """bool [n]: every fifth image of each class."""
    val = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        val[members[:: round(1 / _VAL_SHARE)]] = True
    return val
