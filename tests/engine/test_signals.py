"""What a signal does while training: a wish, an end at once where that is allowed, and handlers put back."""

from __future__ import annotations

import os
import signal

import pytest

from passl_simsiam.engine.signals import StopSignals
from passl_simsiam.engine.step import Requests
from passl_simsiam.errors import Interrupted


def test_a_signal_is_a_wish_to_stop() -> None:
    requests = Requests()
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(requests) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as launchers do
        assert requests.stop == "SIGTERM"
        assert signals.received == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def long_work(signals: StopSignals, did: list[str]) -> None:
    with signals.interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        did.append("went on")


def test_an_interruptible_part_ends_at_once() -> None:
    did: list[str] = []
    with StopSignals(Requests()) as signals:
        with pytest.raises(Interrupted, match="SIGTERM"):
            long_work(signals, did)
        assert did == []


def test_a_signal_from_before_ends_an_interruptible_part_at_its_beginning() -> None:
    with StopSignals(Requests()) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        part = signals.interruptible()
        with pytest.raises(Interrupted):
            part.__enter__()


def test_a_second_ctrl_c_ends_the_process() -> None:
    with StopSignals(Requests()):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
