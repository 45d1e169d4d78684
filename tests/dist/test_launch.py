"""`--nproc N`: what the console, the exit code and the folder of a job of several processes show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from passl_simsiam.commands.launch import _job_code

COMMAND = """
    import os, signal, sys, time

    def main(argv):
        rank = int(os.environ["PADDLE_TRAINER_ID"])
        print(f"rank {rank} of {os.environ['PADDLE_TRAINERS_NUM']} was told {argv}", flush=True)
        if "wait" in argv:
            stopped = []
            signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
            print("waiting", flush=True)
            while not stopped:
                time.sleep(0.1)
            return 75
        return int(argv[rank])
"""
DRIVER = """
    import argparse, sys
    from pathlib import Path
    from passl_simsiam.commands.launch import launch
    launch("answer", argparse.Namespace(nproc=2, argv=sys.argv[2:]), Path(sys.argv[1]))
"""


def job(tmp_path: Path, *argv: str) -> subprocess.Popen[str]:
    """Two ranks of COMMAND, started where PATH has nothing and an empty list of GPUs is set."""
    (tmp_path / "answer.py").write_text(textwrap.dedent(COMMAND))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    environment |= {"PATH": "", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tmp_path), "MY_SECRET": "xyzzy"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path / "log"), *argv],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_job_that_ends_well_shows_rank_0_and_leaves_no_secret(tmp_path: Path) -> None:
    process = job(tmp_path, "0", "0")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert out == "rank 0 of 2 was told ['0', '0']\n"
    assert "rank 1 of 2" in (tmp_path / "log/workerlog.1").read_text()
    assert not [path for path in (tmp_path / "log").iterdir() if "xyzzy" in path.read_text()]


def test_the_failing_rank_gives_the_code_and_is_shown(tmp_path: Path) -> None:
    process = job(tmp_path, "0", "7")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 7
    assert "workerlog.1, what rank 1 printed:\nrank 1 of 2 was told" in err


def test_sigterm_reaches_the_ranks_and_their_code_comes_back(tmp_path: Path) -> None:
    process = job(tmp_path, "wait")
    assert process.stdout is not None
    while process.stdout.readline() != "waiting\n":
        pass
    time.sleep(1)  # rank 1 is there too
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75


@pytest.mark.parametrize(
    ("launcher", "codes", "stopped", "code"),
    [
        (0, [0, 0], False, 0),
        (2, [2, 2], False, 2),
        (3, [3, None], False, 3),
        (247, [None, None], False, 3),  # rank 0 was killed: -9 as a byte
        (15, [75, 75], True, 75),
        (15, [0, 0], True, 0),
        (15, [None, 75], True, 143),
    ],
)
def test_the_code_of_a_job(launcher: int, codes: list[int | None], stopped: bool, code: int) -> None:
    assert _job_code(launcher, codes, stopped) == code
