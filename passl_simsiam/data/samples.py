"""From a sample's index to its views, and what happens when the sample is bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from passl_simsiam.data.bad import BadSample
from passl_simsiam.data.datasets.files import ImageFiles
from passl_simsiam.data.datasets.subset import Subset
from passl_simsiam.data.keys import generator
from passl_simsiam.data.sampler import Indices
from passl_simsiam.data.switch import transform_at
from passl_simsiam.errors import UserError

if TYPE_CHECKING:
    from passl_simsiam.data.base import Dataset, Transform

Views = Sequence[NDArray[np.uint8]]

#: In place of a view in the key of the generator that draws a sample's replacements.
REPLACEMENT = -1
#: So many replacements in a row are bad only if nearly all of the data set is (0.5 ** 100 is 1e-30).
MAX_DRAWS = 100
#: In place of a sample's index: the row is empty.
MISSING = -1


class SampleMaker:
    """Makes views that depend on (seed, epoch, index, view) alone: any process makes the same ones.

    Args:
        dataset: read by index.
        transform: from one image to `num_views` views.
        seed: of the run.
        replace: whether another sample, drawn from a generator with the same key, takes the place of a bad one
            (training); otherwise its row stays empty (evaluation, where a sample must not count twice).
    """

    def __init__(self, dataset: Dataset, transform: Transform, seed: int, replace: bool) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.replace = replace

    def fill(
        self,
        epoch: int,
        indices: Indices,
        out: Views,
        excluded: frozenset[int] = frozenset(),
        started: Callable[[int], None] = lambda index: None,
    ) -> tuple[Indices, list[BadSample]]:
        """Write the views of samples `indices` [b] into `out`, one uint8 array [b, size, size, channels] a view.

        Args:
            excluded: samples to treat as bad without touching them.
            started: is told the index of each sample before it is read, so that a watcher knows what a crash was about.

        Returns:
            The indices of the samples that the rows hold, int64 [b] (MISSING for an empty row), and the bad samples.

        Raises:
            UserError: when the views have another shape or type than `out`, or when the data set or the transform
                raises it: a mistake in the recipe rather than a bad sample.
        """
        transform = transform_at(self.transform, epoch)
        read = reader(self.dataset, transform)
        used = np.full(len(indices), MISSING, dtype=np.int64)
        bad: list[BadSample] = []
        for row, index in enumerate(indices.tolist()):
            for candidate in self._candidates(epoch, index):
                started(candidate)
                if candidate in excluded:
                    continue
                rngs = [generator(self.seed, epoch, index, view) for view in range(transform.num_views)]
                try:
                    views = transform(read(candidate), rngs)
                except UserError:
                    raise
                except Exception as error:  # whatever a broken file makes a decoder raise must not end the run
                    bad.append(BadSample(candidate, self.dataset.name(candidate), _reason(error)))
                    continue
                self._check(views, out)
                for array, view in zip(out, views, strict=True):
                    array[row] = view
                used[row] = candidate
                break
            if self.replace and used[row] == MISSING:
                break  # next to nothing can be read: the caller ends the run
        return used, bad

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The sample itself, then its replacements."""
        yield index
        if self.replace:
            rng = generator(self.seed, epoch, index, REPLACEMENT)
            for _ in range(MAX_DRAWS):
                yield int(rng.integers(len(self.dataset)))

    def _check(self, views: Views, out: Views) -> None:
        expected = [array.shape[1:] for array in out]
        if [view.shape for view in views] != expected or any(view.dtype != np.uint8 for view in views):
            made = ", ".join(f"{view.dtype} {view.shape}" for view in views)
            raise UserError(f"{type(self.transform).__name__} made views {made}; expected: uint8 {expected}")


def reader(dataset: Dataset, transform: Transform) -> Callable[[int], NDArray[np.uint8]]:
    """`dataset.read` for this transform: one that knows how small a large JPEG may be decoded is taken at its word."""
    reduction = getattr(transform, "reduction", None)
    if reduction is not None and isinstance(dataset, (ImageFiles, Subset)):
        return lambda index: dataset.read(index, reduction)
    return dataset.read


def _reason(error: Exception) -> str:
    """An exception in at most 200 characters; BadImage carries its own words."""
    text = getattr(error, "reason", None) or f"{type(error).__name__}: {error}"
    return str(text).splitlines()[0][:200]
