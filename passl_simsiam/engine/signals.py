"""Being asked to stop: by a scheduler that takes the machine back (SIGTERM), or by Ctrl-C (SIGINT)."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType

from passl_simsiam.engine.step import Requests
from passl_simsiam.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While this context lasts, a signal asks all ranks to stop after their next step instead of ending the process.

    Only a rank's main thread may enter it. A second Ctrl-C ends the process at once; launchers repeat SIGTERM, so
    repeated ones mean nothing more.

    Args:
        requests: where the wish to stop is put.

    Attributes:
        received: the signal's name, or None.
    """

    def __init__(self, requests: Requests) -> None:
        self.received: str | None = None
        self._requests = requests
        self._at_once = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part, long and without steps, that a signal ends at once. Raises Interrupted, also for an earlier one."""
        self._at_once = True
        try:
            if self.received:
                raise Interrupted(self.received)
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received, signal.Signals(number).name
        self._requests.stop = self.received
        if number == signal.SIGINT and again == "SIGINT":
            raise KeyboardInterrupt
        if self._at_once:
            self._at_once = False  # raised once: what cleans up afterwards is left in peace
            raise Interrupted(self.received)
