"""The hub: a small process beside rank 0 that every rank keeps a connection to.

It is a process of its own, so that it outlives any rank, rank 0 included (a collective that fails may abort its process
from C++), and sees in which order they go. It needs the standard library alone, and ends with the last connection.

Messages are lines of JSON. From a rank: its number at first (`rank`, `who`, `pid`, `host`), then a heartbeat every
second (`phase`, `idle`, `limit`, `place`, `waiting`), `arrive` (at a meeting point), `failed` (an error and its exit
code) and `bye`. To the ranks: `tick` every second, `go` (all have arrived there), and `end` (the verdict, upon which
all ranks end but those whose `own` error it is: they are ending already).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import defaultdict
from typing import Any

from passl_simsiam.watchdog.verdict import Rank, Verdict, judge, needed

TICK = 1.0
#: Seconds without a heartbeat after which a rank counts as frozen.
SILENCE = 120.0
#: Seconds from the first bad news to the verdict: what comes in the meantime helps to find the cause. After an error
#: the others may be about to report the same; after a death the launcher is about to end them all.
GRACE, GRACE_AFTER_DEATH = 3.0, 0.5
#: Seconds that ranks have to leave after the verdict.
LEAVING = 5.0


class Peer:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.number, self.pid, self.host = connection, -1, 0, ""
        self._buffer = b""

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None when the connection has closed."""
        try:
            data = self.connection.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:  # no rank, but somebody who tries ports
            return None

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # its end is noticed when it is read
            self.connection.sendall(json.dumps(message).encode() + b"\n")


class Hub:
    """Listens on `host` for `size` ranks.

    Args:
        silence: seconds without a heartbeat after which a rank counts as frozen.
    """

    def __init__(self, host: str, size: int, silence: float = SILENCE) -> None:
        self._ranks = [Rank(heard=time.monotonic()) for _ in range(size)]
        self._silence = silence
        self._arrived: defaultdict[str, set[int]] = defaultdict(set)
        self._bad_news: float | None = None
        self._selector = selectors.DefaultSelector()
        try:
            self._listener = socket.create_server((host, 0))
        except OSError:  # an address that others reach this machine by, but that is not its own
            self._listener = socket.create_server(("", 0))
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def _peers(self) -> list[Peer]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def run(self, parent: int) -> None:
        """Serve until all ranks have gone; `parent` is the process that must live until the first one comes."""
        met, ticked = False, time.monotonic()
        while not met or self._peers:
            for key, _ in self._selector.select(TICK / 4):
                if key.data is None:
                    connection, _ = self._listener.accept()
                    self._selector.register(connection, selectors.EVENT_READ, Peer(connection))
                    met = True
                else:
                    self._read(key.data)
            now = time.monotonic()
            if not met and os.getppid() != parent:
                return
            if now - ticked > 5 * TICK:  # this process was paused itself, and has not read what came meanwhile
                for rank in self._ranks:
                    rank.heard = now
            if now - ticked > TICK:
                ticked = now
                for peer in self._peers:
                    peer.send({"tick": True})
            if self._is_time(now):
                self._end(judge(self._ranks, now))
                return

    def _read(self, peer: Peer) -> None:
        messages = peer.receive()
        now = time.monotonic()
        if messages is None:
            self._selector.unregister(peer.connection)
            peer.connection.close()
            if peer.number >= 0 and self._ranks[peer.number].at_work:
                self._ranks[peer.number].died = now
            return
        for message in messages:
            if "rank" in message:
                peer.number, peer.pid, peer.host = message["rank"], message["pid"], message["host"]
            if peer.number < 0:
                continue
            rank = self._ranks[peer.number]
            rank.heard = now
            for key in ("phase", "idle", "limit", "place", "waiting", "who"):
                if key in message:
                    setattr(rank, key, message[key])
            if "arrive" in message:
                self._arrive(peer.number, message["arrive"])
            if "failed" in message and rank.at_work:
                rank.failed, rank.error, rank.code = now, message["failed"], message["code"]
            if "bye" in message:
                rank.left = True

    def _arrive(self, number: int, point: str) -> None:
        self._arrived[point].add(number)
        if len(self._arrived[point]) == len(self._ranks):
            del self._arrived[point]
            for peer in self._peers:
                peer.send({"go": point})

    def _is_time(self, now: float) -> bool:
        """Whether to give the verdict: bad news have come, and either all is known or the grace is over."""
        if not needed(self._ranks, now, self._silence):
            return False
        if self._bad_news is None:
            self._bad_news = now
        grace = GRACE_AFTER_DEATH if any(rank.died is not None for rank in self._ranks) else GRACE
        return now - self._bad_news > grace or not any(rank.at_work for rank in self._ranks)

    def _end(self, verdict: Verdict) -> None:
        """Say the verdict and see the ranks off; those on this machine that do not run are made to."""
        own = [n for n, rank in enumerate(self._ranks) if rank.failed is not None and not rank.is_victim()]
        if len(own) < len(self._ranks) or len({rank.error for rank in self._ranks}) > 1:  # else each says the same
            print(f"error: {verdict.text}", file=sys.stderr, flush=True)
        here = socket.gethostname()
        now = time.monotonic()
        frozen = [peer for peer in self._peers if peer.host == here and self._ranks[peer.number].is_quiet(now)]
        for peer in frozen:
            with contextlib.suppress(OSError):
                os.kill(peer.pid, signal.SIGUSR1)  # writes its stacks, even inside a call that does not return
                os.kill(peer.pid, signal.SIGCONT)
        for peer in self._peers:
            peer.send({"end": verdict.text, "own": own, "code": verdict.code})
        deadline = time.monotonic() + LEAVING
        while self._peers and time.monotonic() < deadline:
            for key, _ in self._selector.select(TICK / 4):
                if key.data is not None and key.data.receive() is None:
                    self._selector.unregister(key.fileobj)
        for peer in self._peers:
            if peer.host == here:
                with contextlib.suppress(OSError):
                    os.kill(peer.pid, signal.SIGKILL)


def main() -> None:
    """HOST SIZE SILENCE: print the port, and serve."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the ranks decide when to go
    host, size, silence = sys.argv[1:]
    hub = Hub(host, int(size), float(silence))
    parent = os.getppid()
    print(hub.port, flush=True)
    sys.stdout.close()
    hub.run(parent)


if __name__ == "__main__":
    main()
