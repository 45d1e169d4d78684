"""Bad samples: counted, logged once, and too many of them end the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from passl_simsiam.errors import UserError

log = logging.getLogger(__name__)

LISTED = 10  # in the error message; all of them are in the log


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read or transformed. `name` is its path, or what its data set calls it."""

    index: int
    name: str
    reason: str


class BadSamples(Mapping[int, BadSample]):
    """The samples of a data set known to be bad, by index.

    Args:
        count: samples in the data set.
        max_fraction: the share of them that may be bad.
    """

    def __init__(self, count: int, max_fraction: float) -> None:
        self._count, self._max_fraction = count, max_fraction
        self._samples: dict[int, BadSample] = {}

    def __getitem__(self, index: int) -> BadSample:
        return self._samples[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, sample: BadSample) -> None:
        """Note a bad sample, the first time. Raises UserError, with the list, when there are too many."""
        if sample.index in self._samples:
            return
        self._samples[sample.index] = sample
        log.warning("bad sample %d left out: %s (%s)", sample.index, sample.name, sample.reason)
        if len(self) > self._max_fraction * self._count:
            raise self.error(f"more than max_bad_fraction = {self._max_fraction:g} allows")

    def error(self, what: str) -> UserError:
        """The end of the run, for the reason `what`."""
        listed = "; ".join(f"{bad.name} ({bad.reason})" for bad in list(self._samples.values())[:LISTED])
        more = f"; {len(self) - LISTED} more are in the log" if len(self) > LISTED else ""
        share = len(self) / self._count
        return UserError(f"{len(self)} of {self._count} samples ({share:.1%}) are bad, {what}: {listed}{more}")
