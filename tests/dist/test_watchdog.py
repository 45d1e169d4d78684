"""A rank that dies or hangs is named, every stack is in the log, and the others end; with real processes, no Paddle."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from passl_simsiam.watchdog import open_hub
from passl_simsiam.watchdog.verdict import EXIT_LOST_RANK, Rank, judge, needed

TIMEOUT = 6.0
RANK = """
    import os, signal, sys, time
    from passl_simsiam import watchdog

    rank, port, timeout, behaviour = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    dog = watchdog.start(rank, ("127.0.0.1", port), timeout)
    dog.meet("the start")
    watchdog.beat("step 1")
    time.sleep(3)  # heartbeats tell of it

    def stand_still():
        time.sleep(100)

    try:
        if behaviour == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == "is stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if behaviour == "hangs":
            stand_still()
        if behaviour == "raises":
            raise ValueError("a bad image")
        if behaviour == "is slow":
            with watchdog.phase("a long report", limit=80):
                time.sleep(9)
        with watchdog.phase("the end", limit=80):
            dog.meet("the end")
    except Exception as error:
        if behaviour != "raises":
            error = RuntimeError("gloo: connection closed")
        watchdog.stop(error, 7)
        raise SystemExit(7)
    watchdog.stop()
"""


@dataclass
class Job:
    codes: list[int]
    errors: list[str]
    seconds: float


def job(folder: Path, *behaviours: str) -> Job:
    """One rank of each behaviour, under one hub."""
    script = folder / "rank.py"
    script.write_text(textwrap.dedent(RANK))
    port = open_hub("127.0.0.1", len(behaviours), TIMEOUT)
    begun = time.monotonic()
    ranks = []
    for rank, behaviour in enumerate(behaviours):
        command = [sys.executable, str(script), str(rank), str(port), str(TIMEOUT), behaviour]
        ranks.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=90)[1] for process in ranks]
    return Job([process.returncode for process in ranks], errors, time.monotonic() - begun)


def test_no_fault_no_verdict_though_one_rank_is_slower_than_the_timeout(tmp_path: Path) -> None:
    done = job(tmp_path, "waits", "is slow")
    assert done.codes == [0, 0]
    assert done.errors == ["", ""]


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_killed_rank_is_named_and_the_others_end_with_their_stacks(tmp_path: Path, culprit: int) -> None:
    behaviours = ["waits", "waits", "waits"]
    behaviours[culprit] = "is killed"
    done = job(tmp_path, *behaviours)
    assert done.codes.pop(culprit) == -9
    assert done.codes == [EXIT_LOST_RANK] * 2
    done.errors.pop(culprit)
    for error in done.errors:
        assert f"error: rank {culprit} [process" in error
        assert "died; last seen at step 1" in error
        assert "in meet" in error  # the stack of the main thread
    assert done.seconds < 30


def test_a_hanging_rank_is_named_not_those_that_wait_for_it(tmp_path: Path) -> None:
    done = job(tmp_path, "waits", "hangs")
    assert done.codes == [EXIT_LOST_RANK] * 2
    for error in done.errors:
        assert "error: rank 1 [process" in error
        assert "hangs at step 1 (in rank.py" in error
    assert "in stand_still" in done.errors[1]


def test_a_stopped_rank_is_named_made_to_write_its_stack_and_ended(tmp_path: Path) -> None:
    done = job(tmp_path, "is stopped", "waits")
    assert done.codes == [EXIT_LOST_RANK] * 2
    assert "error: rank 0 [process" in done.errors[1]
    assert "gave no sign of life" in done.errors[1]
    assert 'rank.py", line' in done.errors[0]


def test_an_error_of_one_rank_ends_the_job_with_its_code(tmp_path: Path) -> None:
    done = job(tmp_path, "waits", "raises")
    assert done.codes == [7, 7]
    assert "error: rank 1 [process" in done.errors[0]
    assert "failed at step 1" in done.errors[0]
    assert "ValueError: a bad image; ending the job" in done.errors[0]
    assert done.errors[1] == ""  # the process itself says what it has to say


def test_the_same_error_of_all_ranks_is_left_to_them(tmp_path: Path) -> None:
    done = job(tmp_path, "raises", "raises")
    assert done.codes == [7, 7]
    assert done.errors == ["", ""]


def test_a_process_alone_watches_itself(tmp_path: Path) -> None:
    code = "import time; from passl_simsiam import watchdog as w; w.start(0, None, 2); w.beat('step 5'); time.sleep(30)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=25, check=False)
    assert done.returncode == EXIT_LOST_RANK
    assert re.search(r"error: no progress for \d+ s at step 5", done.stderr)
    assert 'File "<string>", line 1 in <module>' in done.stderr


def test_gloo_gives_up_on_a_rank_that_stands_still_and_that_one_is_named() -> None:
    """A rank that waits 30 s in a collective fails there, or is aborted from C++; the cause is the one that stands."""
    waiting = Rank(phase="step 9", idle=30, waiting=True, heard=99.5, failed=100, error="RuntimeError: gloo TIMEOUT")
    aborted = Rank(phase="step 9", idle=30, waiting=True, heard=99.5, died=99.9)
    still = Rank(phase="step 9", idle=31, place="loader.py:7 read", heard=99.8)
    for victim in (waiting, aborted):
        assert needed([victim, still], now=101, silence=120)
        assert judge([victim, still], now=101).rank == 1
    assert judge([waiting, aborted], now=101).rank == 1  # else it is the first to go


def test_what_is_no_fault() -> None:
    working = Rank(phase="step 9", idle=500, limit=600, heard=100)
    left = Rank(left=True, heard=50)
    unstarted = Rank(idle=5000, limit=math.inf, heard=100)
    assert not needed([working, left, unstarted], now=101, silence=120)
    assert needed([working, Rank(idle=601, limit=600, heard=100)], now=101, silence=120)
    assert needed([working, Rank(heard=-20)], now=101, silence=120)


def test_an_own_error_comes_before_those_that_follow_from_it() -> None:
    first = Rank(failed=10.0, error="UserError: no such file", code=2)
    second = Rank(failed=10.2, error="RuntimeError: gloo connection closed")
    killed = Rank(died=10.5)
    verdict = judge([second, killed, first], now=11)
    assert (verdict.rank, verdict.code) == (2, 2)
    assert judge([second, killed], now=11).code == EXIT_LOST_RANK
