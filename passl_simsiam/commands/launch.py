"""`--nproc N`: a command as N processes on this machine, through Paddle's launcher.

The launcher is run by module, whatever PATH says. It hides what its processes print and, when it is told to stop, the
codes that they end in; here rank 0's output goes to the console as in a plain run, and each rank leaves its code.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from passl_simsiam import distributed
from passl_simsiam.errors import UserError
from passl_simsiam.watchdog.verdict import EXIT_LOST_RANK

#: What the launcher leaves in its folder that holds the whole environment, secrets included.
SECRETS = ("backup_env.*.json", "envlog.*", "*.*.log")
TAIL = 30  # lines of the log of the rank to blame, shown when a job has failed
POLL = 0.1  # seconds
PR_SET_PDEATHSIG = 1


def add_nproc(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
    """Understand `--nproc`; `argv` is what the command was called with, None for the process's own arguments."""
    parser.add_argument(
        "--nproc",
        type=int,
        default=1,
        metavar="N",
        help="run as N processes on this machine: on its first N GPUs, or sharing its cores",
    )
    parser.set_defaults(argv=list(sys.argv[1:] if argv is None else argv))


def wanted(arguments: argparse.Namespace) -> bool:
    """Whether this process is to start the others, and is none of them. Raises UserError."""
    if arguments.nproc < 1:
        raise UserError(f"--nproc: {arguments.nproc} processes cannot work; give 1 or more")
    return arguments.nproc > 1 and distributed.from_environment().size == 1


def launch(module: str, arguments: argparse.Namespace, folder: Path | None) -> None:
    """Run `module` (a command) as `arguments.nproc` processes, and wait. Raises SystemExit with the job's code.

    Args:
        folder: for the launcher's logs, workerlog.0 and so on, appended to; None keeps none.
    """
    with tempfile.TemporaryDirectory(prefix="passl-") as scratch:
        logs = folder or Path(scratch)
        logs.mkdir(parents=True, exist_ok=True)
        starts = [_size(logs / f"workerlog.{rank}") for rank in range(arguments.nproc)]
        command = [sys.executable, "-m", "paddle.distributed.launch"]
        command += ["--nproc_per_node", str(arguments.nproc), "--log_dir", str(logs)]
        # What is no .py file the launcher runs as it stands: here Python, which runs this module's `main`.
        command += [sys.executable, "-u", "-m", __name__, scratch, module, *arguments.argv]
        try:
            with (logs / "launch.log").open("ab") as own:
                stopped, code = _run(command, own.fileno(), logs / "workerlog.0", starts[0])
        finally:
            _remove_secrets(logs)
        codes = [_recorded(Path(scratch), rank) for rank in range(arguments.nproc)]
        code = _job_code(code, codes, stopped)
        if code not in (0, *(own for own in codes if own == 75)):
            _show_culprit(logs, starts, codes)
    if code:
        raise SystemExit(code)


def _run(command: list[str], output: int, log: Path, start: int) -> tuple[bool, int]:
    """Run the launcher, echoing rank 0's log; whether it was told to stop, and its code."""
    # The launcher takes an empty list of GPUs for a list of one GPU without a name.
    environment = {k: v for k, v in os.environ.items() if (k, v) != ("CUDA_VISIBLE_DEVICES", "")}
    # In a session of its own: Ctrl-C on the terminal would reach it twice, which to it means to kill at once.
    launcher = subprocess.Popen(
        command,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=output,
        stderr=output,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    with _forwarded(launcher) as received:
        position = start
        while True:
            ended = launcher.poll() is not None
            position = _echo(log, position)
            if ended:
                return bool(received), launcher.returncode
            time.sleep(POLL)


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies, even by SIGKILL: nobody would be left to stop the job."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _forwarded(launcher: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Stop signals go to the launcher, which ends its processes by SIGTERM and, 30 s later, by SIGKILL."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        launcher.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _echo(log: Path, position: int) -> int:
    """Print what was added to `log` since `position`; the new position."""
    if _size(log) > position:
        with log.open("rb") as file:
            file.seek(position)
            text = file.read()
        sys.stdout.write(text.decode("utf-8", "replace"))
        sys.stdout.flush()
        position += len(text)
    return position


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _remove_secrets(logs: Path) -> None:
    for pattern in SECRETS:
        for path in logs.glob(pattern):
            path.unlink(missing_ok=True)


def _job_code(launcher: int, codes: Sequence[int | None], stopped: bool) -> int:
    """The job's exit code from the launcher's and those that the ranks left, None for one that was killed.

    The launcher's own is that of the first rank that failed, or the number of the signal that stopped it.
    """
    left = [code for code in codes if code is not None]
    if stopped and len(left) == len(codes):
        return max(left)
    if stopped:
        return 128 + signal.SIGTERM
    return launcher if 0 <= launcher < 128 else EXIT_LOST_RANK


def _show_culprit(logs: Path, starts: Sequence[int], codes: Sequence[int | None]) -> None:
    """The last lines of the log of the rank that the watchdog blames, or else of the first that failed."""
    ends = [(logs / f"workerlog.{rank}") for rank in range(len(starts))]
    news = [path.read_bytes()[start:].decode("utf-8", "replace") if path.exists() else ""
            for path, start in zip(ends, starts, strict=True)]  # fmt: skip
    blamed = re.search(r"^error: rank (\d+) ", "\n".join(news), re.MULTILINE)
    rank = int(blamed.group(1)) if blamed else next((r for r, code in enumerate(codes) if code), 0)
    if rank == 0 and news[0]:
        return  # it has been on the console
    lines = news[rank].splitlines()[-TAIL:] or ["(nothing)"]
    print(f"--- the end of {ends[rank]}, what rank {rank} printed:", *lines, sep="\n", file=sys.stderr)


def _recorded(folder: Path, rank: int) -> int | None:
    path = folder / f"exit.{rank}"
    return int(path.read_text()) if path.exists() else None


def main() -> None:
    """One rank: SCRATCH MODULE ARGUMENTS. Runs the command and leaves its code in SCRATCH."""
    _, scratch, module, *argv = sys.argv
    sys.argv = [module, *argv]
    code = 1
    try:
        code = runpy.run_module(module)["main"](argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        (Path(scratch) / f"exit.{distributed.from_environment().rank}").write_text(str(code))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
