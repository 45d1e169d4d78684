"""The guard against collapse: embeddings that (nearly) agree for all images, whatever the loss says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verdict:
    """What is to be said, in one line, and whether training is to end."""

    message: str
    stop: bool


class CollapseGuard:
    """Warns after so many collapsed reports in a row, and ends training after as many more.

    A report counts as collapsed when the spread of z/|z| is far below that of even directions (SimSiam, section 4.1),
    or when z uses hardly more than one direction. The second is the surer sign behind a batch norm, which keeps z from
    being constant: all images of a batch can then agree but for a few, which point the opposite way.

    Args:
        action: "off"; "warn" never stops; "stop" does.
        std_below: share of 1/sqrt(d) below which the spread counts as collapsed.
        rank_below: effective rank of z below which it counts as collapsed.
        reports: how many in a row.
        grace_steps: reports up to this step do not count.
        causes: what usually is to blame, a sentence that ends the messages.
    """

    def __init__(
        self,
        action: Literal["off", "warn", "stop"],
        *,
        std_below: float,
        rank_below: float,
        reports: int,
        grace_steps: int,
        causes: str,
    ) -> None:
        self._action, self._std_below, self._rank_below = action, std_below, rank_below
        self._reports, self._grace_steps, self._causes = reports, grace_steps, causes
        self._in_a_row = 0
        self.stopped: str | None = None

    def judge(self, step: int, spread: float, rank: float) -> Verdict | None:
        """Take in a report: the spread of z/|z| as a share of 1/sqrt(d), and the effective rank of z."""
        if self._action == "off" or step <= self._grace_steps:
            return None
        collapsed = spread < self._std_below or rank < self._rank_below
        self._in_a_row = self._in_a_row + 1 if collapsed else 0
        seen = (
            f"z/|z| spreads {spread:.1%} of 1/sqrt(d) (healthy: near 100 %) in {rank:.1f} directions, "
            f"{self._in_a_row} reports in a row up to step {step}"
        )
        if self._in_a_row == self._reports:
            return Verdict(f"the representation is collapsing: {seen}. {self._causes}", stop=False)
        if self._in_a_row == 2 * self._reports and self._action == "stop":
            self.stopped = f"training stopped, the representation has collapsed: {seen}. {self._causes}"
            return Verdict(self.stopped, stop=True)
        return None
