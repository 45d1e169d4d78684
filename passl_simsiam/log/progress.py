"""How fast a run goes, when it will end, and a bar or a line that says so."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress

WINDOW = 50  # updates that the speed is averaged over
LINE_SECONDS = 10.0  # between two lines where there is no bar


class Progress:
    """Progress of `total` steps: a live bar on a terminal, a line every ten seconds elsewhere.

    Use it as a context manager and call `update` after each step.

    Args:
        total: steps of the whole run.
        start: steps done before (a resumed run).
        label: what is being done ("pretrain").
        console: the terminal to draw on, or None.
        say: takes the plain lines.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        label: str = "",
        console: Console | None = None,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.step = start
        self._label = label
        self._say = say
        self._clock = clock
        self._images = 0
        # (time, steps done, images, seconds waited for data), the latest last
        self._marks: deque[tuple[float, int, int, float]] = deque(maxlen=WINDOW + 1)
        self._last_line = -LINE_SECONDS
        self._bar: RichProgress | None = None
        if console is not None:
            status = TextColumn("{task.fields[status]}")
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=10), TaskProgressColumn(), status)
            self._bar = RichProgress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(label, total=total, completed=start, status="")

    def __enter__(self) -> Progress:
        self.restart()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def restart(self, waited: float = 0.0) -> None:
        """Measure anew from here: call it after an evaluation or a checkpoint, which are no slow steps."""
        self._marks.clear()
        self._marks.append((self._clock(), self.step, self._images, waited))

    def update(self, *, images: int, waited: float = 0.0, note: str = "") -> None:
        """One more step is done.

        Args:
            images: images of this step, of all processes (an image with two views is one).
            waited: seconds spent waiting for data since the loader was made.
            note: a few values to show ("epoch 3/100  loss -0.8312").
        """
        self.step += 1
        self._images += images
        now = self._clock()
        self._marks.append((now, self.step, self._images, waited))
        # What matters most comes first: a narrow terminal cuts the end off.
        speed = f"{self.images_per_second:.0f} images/s  data wait {self.data_wait:.0%}"
        status = f"{note}  ETA {_hms(self.eta)}  {speed}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.step, status=status.strip())
        if now - self._last_line >= LINE_SECONDS or self.step == self.total:
            self._last_line = now
            self._say(f"{self._label} step {self.step}/{self.total}  {status.strip()}".strip())

    @property
    def images_per_second(self) -> float:
        seconds, _, images, _ = self._over_window()
        return images / seconds if seconds > 0 else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time, 0 to 1, spent waiting for data."""
        seconds, _, _, waited = self._over_window()
        return min(1.0, max(0.0, waited / seconds)) if seconds > 0 else 0.0

    @property
    def eta(self) -> float:
        """Seconds to the end at the present speed, without the evaluations to come."""
        seconds, steps, _, _ = self._over_window()
        return (self.total - self.step) * seconds / steps if steps else 0.0

    def _over_window(self) -> tuple[float, int, int, float]:
        if len(self._marks) < 2:
            return 0.0, 0, 0, 0.0
        (t0, s0, i0, w0), (t1, s1, i1, w1) = self._marks[0], self._marks[-1]
        return t1 - t0, s1 - s0, i1 - i0, w1 - w0


def _hms(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
