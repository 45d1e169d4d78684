"""Which rank is to blame when a job of several processes cannot go on: a pure function of what is known of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: The exit code of all ranks after one of them died or hung.
EXIT_LOST_RANK = 3
#: Seconds without a heartbeat after which a process does not run: stopped, or frozen. Heartbeats come every second.
QUIET = 3.0
#: Seconds without progress after which a rank is suspected when another one fails in a collective: gloo's are given up
#: after 30 s of waiting, whatever timeout they are given.
STALLED = 25.0
#: What the errors of collectives and of the store say when it is another rank that is gone.
OF_THE_CONNECTION = ("gloo", "nccl", "tcp receive error", "tcp connection", "connection reset", "broken pipe")


@dataclass
class Rank:
    """What is known of one rank; times are the hub's, in seconds.

    Attributes:
        phase: what it said it was doing, at its last beat.
        idle: seconds since that beat, as it counts them itself.
        limit: seconds that `idle` may reach.
        place: where its main thread was at the last heartbeat.
        waiting: whether it was waiting for other ranks there.
        heard: when its last heartbeat came.
        died: when its connection closed without a goodbye.
        failed, error, code: when it reported an error, which, and the exit code that it ends in.
        left: it said goodbye.
    """

    phase: str = "starting"
    idle: float = 0.0
    limit: float = math.inf
    place: str = ""
    waiting: bool = False
    heard: float = 0.0
    died: float | None = None
    failed: float | None = None
    error: str = ""
    code: int = 1
    left: bool = False
    who: str = ""

    @property
    def lost(self) -> float | None:
        """When it died or failed."""
        return self.failed if self.died is None or self.failed is not None else self.died

    @property
    def at_work(self) -> bool:
        return not self.left and self.lost is None

    @property
    def stands_still(self) -> bool:
        """It makes no progress, and not because it waits for another rank."""
        return self.at_work and not self.waiting and self.idle >= min(STALLED, self.limit)

    def is_quiet(self, now: float) -> bool:
        """It is at work, as far as is known, but does not run."""
        return self.at_work and now - self.heard > QUIET

    def is_victim(self) -> bool:
        """It died or failed as one does that waited for another rank."""
        if self.failed is not None:
            return any(word in self.error.lower() for word in OF_THE_CONNECTION)
        return self.died is not None and self.waiting and self.idle >= STALLED

    def describe(self, number: int, now: float) -> str:
        """One line."""
        where = f" at {self.phase}" + (f" (in {self.place})" if self.place else "")
        if self.failed is not None:
            state = f"failed{where}: {self.error}"
        elif self.died is not None:
            state = f"died; last seen{where}"
        elif self.left:
            state = "had finished"
        elif self.is_quiet(now):
            state = f"gave no sign of life for {now - self.heard:.0f} s{where}: stopped, or frozen"
        elif self.waiting:
            state = f"waits for other ranks{where}, for {self.idle:.0f} s"
        else:
            state = f"{'hangs' if self.stands_still else 'is at work'}{where}, no progress for {self.idle:.0f} s"
        return f"rank {number}{f' [{self.who}]' if self.who else ''} {state}"


@dataclass(frozen=True)
class Verdict:
    """The rank to blame, the words for the log, and the exit code of the job."""

    rank: int
    text: str
    code: int


def needed(ranks: Sequence[Rank], now: float, silence: float) -> bool:
    """Whether a rank is lost, silent for `silence` seconds, or without progress beyond its limit."""
    return any(
        rank.lost is not None or (rank.at_work and (now - rank.heard > silence or rank.idle > rank.limit))
        for rank in ranks
    )


def judge(ranks: Sequence[Rank], now: float) -> Verdict:
    """Name the rank to blame: the first that was lost, unless it was only waiting for one that stands still."""
    number = min(range(len(ranks)), key=lambda n: _order(ranks[n], now))
    culprit = ranks[number]
    table = "\n".join(f"  {rank.describe(n, now)}" for n, rank in enumerate(ranks))
    text = f"{culprit.describe(number, now)}; ending the job. All ranks:\n{table}"
    return Verdict(number, text, culprit.code if culprit.failed is not None else EXIT_LOST_RANK)


def _order(rank: Rank, now: float) -> tuple[int, float]:
    """Sorts the rank most to blame first."""
    if rank.lost is not None and not rank.is_victim():
        return 0, rank.lost
    if rank.is_quiet(now):
        return 1, rank.heard
    if rank.stands_still:
        return 2, -rank.idle
    if rank.lost is not None:
        return 3, rank.lost
    return (4, -rank.idle) if rank.at_work else (5, 0.0)
