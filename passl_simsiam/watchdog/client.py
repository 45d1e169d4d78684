"""A rank's side of the watchdog: it tells the hub where it stands, and ends when the hub says so.

A thread does it; collectives, the store and Paddle's kernels release the interpreter's lock while they wait.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from passl_simsiam.watchdog.hub import SILENCE, TICK
from passl_simsiam.watchdog.verdict import EXIT_LOST_RANK

#: Seconds for what one rank does while the others wait, and for other work that cannot tell its progress.
LONG = 3600.0
#: Seconds that a rank which fails waits for the verdict: one that fails because another rank did ends as that one's.
VERDICT = 6.0
STDERR = 2
HERE, PACKAGE = str(Path(__file__).parent), str(Path(__file__).parents[1])


class LostHub(ConnectionError):
    """The hub is gone, and with it the machine of rank 0, or the network to it."""


class Watchdog(threading.Thread):
    """Watches this process, and with a hub the whole job.

    Args:
        rank: this process's.
        address: the hub's (host, port); None in a job of one process, which watches itself.
        timeout: seconds without a beat after which a rank counts as hung.
    """

    def __init__(self, rank: int, address: tuple[str, int] | None, timeout: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._rank, self._timeout, self._silence = rank, timeout, min(SILENCE, timeout)
        self._main = threading.main_thread().ident
        # Nothing can hang, as far as is known, before the first beat.
        self._phase, self._limit, self._idle = "starting", float("inf"), 0.0
        self._patience = 0.0
        self._heard, self._buffer = time.monotonic(), b""
        self._send_lock, self._changed = threading.Lock(), threading.Condition()
        self._meetings, self._open, self._lost = 0, set[str](), False
        self._verdict: dict[str, Any] | None = None
        self._failed = self._closed = False
        self._error: BaseException | None = None
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.create_connection(address, timeout=30)
            self._socket.settimeout(None)
            host, pid = socket.gethostname(), os.getpid()
            self._send({"rank": rank, "pid": pid, "host": host, "who": f"process {pid} on {host}"})
        self.start()

    def beat(self, phase: str) -> None:
        """Progress: this rank is now at `phase`."""
        self._phase, self._idle, self._limit = phase, 0.0, max(self._timeout, self._patience)

    @contextlib.contextmanager
    def phase(self, text: str, limit: float) -> Iterator[None]:
        """Work that may go without a beat for `limit` seconds, or the watchdog's timeout if that is longer."""
        before = self._phase, self._limit, self._patience
        self._patience = max(limit, self._patience)
        self.beat(text)
        yield  # an error leaves the phase as it is, for the report
        self._phase, self._limit, self._patience = before
        self._idle = 0.0

    def meet(self, what: str) -> None:
        """Return when all ranks have called this. All ranks call it in the same order. Raises LostHub."""
        if self._socket is None:
            return
        self._meetings += 1
        point = f"{self._meetings}: {what}"
        self._send({"arrive": point})
        with self._changed:
            while point not in self._open:
                if self._lost:
                    raise LostHub(f"lost the connection to the watchdog's hub while waiting at {what!r}")
                self._changed.wait(TICK)  # in Python, so that handlers of signals run meanwhile
            self._open.discard(point)

    def close(self, error: BaseException | None = None, code: int = 1) -> None:
        """Leave the job: well, or with an error that ends this process with exit code `code`.

        With an error this does not return where another rank is the cause: the process ends as the others do.
        """
        if self._socket is None or self._closed:
            self._closed = True
            return
        if error is None:
            self._closed = True
            self._send({"bye": True})
            return
        self._failed, self._error = True, error
        self._send({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}", "code": code})
        with self._changed:
            self._changed.wait_for(lambda: self._verdict is not None or self._lost, VERDICT)
        self._closed = True

    def run(self) -> None:
        last = time.monotonic()
        while not self._closed:
            wait = max(0.0, last + TICK - time.monotonic())
            if select.select([self._socket] if self._socket else [], [], [], wait)[0] and not self._receive():
                self._lose()
                return
            now = time.monotonic()
            if now - last > 5 * TICK:  # the process was stopped meanwhile: neither it nor the others stood still
                self._heard = now
            if now - last >= TICK:
                self._idle += min(now - last, 2 * TICK)
                last = now
                self._report(now)

    def _report(self, now: float) -> None:
        """Send a heartbeat; without a hub, look after oneself."""
        place, waiting = _whereabouts(sys._current_frames().get(self._main or 0))
        if self._socket is None:
            if self._idle > self._limit:
                _end(f"no progress for {self._idle:.0f} s at {self._phase} (in {place})", EXIT_LOST_RANK)
            return
        if self._failed:
            return
        beat = {"phase": self._phase, "idle": self._idle, "limit": self._limit, "place": place, "waiting": waiting}
        self._send(beat)
        if now - self._heard > self._silence and not self._closed:
            self._lose()

    def _receive(self) -> bool:
        """Act on what the hub says; False when the connection has closed."""
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            return False
        self._heard = time.monotonic()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for message in map(json.loads, lines):
            if "go" in message:
                with self._changed:
                    self._open.add(message["go"])
                    self._changed.notify_all()
            elif "end" in message:
                if self._rank not in message["own"]:
                    if self._error is not None:  # its stack has gone with it
                        traceback.print_exception(self._error, file=sys.stderr)
                    _end(message["end"], message["code"])
                with self._changed:  # its main thread says the rest
                    self._verdict = message
                    self._changed.notify_all()
        return True

    def _lose(self) -> None:
        if not self._failed and not self._closed:
            _end("lost the connection to the watchdog's hub, beside rank 0: its machine or the network", EXIT_LOST_RANK)
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        with self._send_lock, contextlib.suppress(OSError):  # the reading side notices
            self._socket.sendall(json.dumps(message).encode() + b"\n")


def _whereabouts(frame: FrameType | None) -> tuple[str, bool]:
    """The main thread's innermost function of this package, the innermost of all, and whether it waits for ranks."""
    if frame is None:
        return "", False
    if frame.f_code.co_filename == threading.__file__ and frame.f_back is not None:
        frame = frame.f_back
    inner = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
    own, waiting = "", False
    walk: FrameType | None = frame
    while walk is not None:
        file, function = walk.f_code.co_filename, walk.f_code.co_name
        waiting |= f"paddle{os.sep}distributed" in file or function == "backward" or file.startswith(HERE)
        if not own and file.startswith(PACKAGE) and not file.startswith(HERE):
            own = f"{Path(file).name}:{walk.f_lineno} {function}"
        walk = walk.f_back
    return (f"{own}: {inner}" if own and own != inner else inner), waiting


def _end(text: str, code: int) -> None:
    """Say why, write the stacks of all threads to stderr, and end the process at once."""
    print(f"error: {text}\nThe stacks of this process:", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        faulthandler.dump_traceback(STDERR)
    os._exit(code)


_current: Watchdog | None = None
_hub: subprocess.Popen[bytes] | None = None


def current() -> Watchdog | None:
    """The watchdog of this process."""
    return _current


def start(rank: int, address: tuple[str, int] | None, timeout: float) -> Watchdog:
    """Begin to watch; see Watchdog. SIGUSR1 from now on writes the stacks of all threads to stderr, as a crash does."""
    global _current
    stop()
    with contextlib.suppress(OSError):  # no stderr at all
        if not faulthandler.is_enabled():
            faulthandler.enable(STDERR)
        faulthandler.register(signal.SIGUSR1, STDERR)
    _current = Watchdog(rank, address, timeout)
    return _current


def stop(error: BaseException | None = None, code: int = 1) -> None:
    """Leave the job; see Watchdog.close."""
    global _current
    if _current is not None:
        _current.close(error, code)
        _current = None


def beat(phase: str) -> None:
    """Progress: this rank is now at `phase` ("step 12"). The clock of hang_timeout begins anew."""
    if _current is not None:
        _current.beat(phase)


@contextlib.contextmanager
def phase(text: str, limit: float = LONG) -> Iterator[None]:
    """Work without beats: it may take `limit` seconds, or hang_timeout if that is longer."""
    if _current is None:
        yield
        return
    with _current.phase(text, limit):
        yield


def open_hub(host: str, size: int, timeout: float) -> int:
    """Start the hub of `size` ranks on this machine; its port. It ends by itself. `timeout` is as for the ranks."""
    command = [
        sys.executable,
        "-c",
        "from passl_simsiam.watchdog.hub import main; main()",
        host,
        str(size),
        str(min(SILENCE, timeout)),
    ]
    # A session of its own: signals to the job's processes are not meant for it.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in [str(Path(PACKAGE).parent), *sys.path] if p)}
    global _hub
    _hub = subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    assert _hub.stdout is not None
    with _hub.stdout as answer:
        return int(answer.readline())
