"""A real run that is asked to stop by a signal saves, exits with code 75, and goes on to bitwise the same end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import TINY_PRETRAINING

from passl_simsiam.checkpoint import io

QUIET = ["Evaluation.baselines=false", "Evaluation.knn.every_epochs=1", "Global.epochs=4"]


def start(root: Path, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(root / "tools/train.py"), "-c", str(root / "configs/simsiam_r18_pt_digits.yaml")]
    command += ["-o", *TINY_PRETRAINING, *QUIET, f"Global.output_dir={folder}", "Global.checkpoint=auto", *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def stop(run: subprocess.Popen[str], folder: Path, number: signal.Signals, after: str) -> tuple[int, str]:
    """Send the signal when log.txt holds `after`; the exit code and what was said on stderr."""
    limit = time.monotonic() + 120
    while not (folder / "log.txt").exists() or after not in (folder / "log.txt").read_text():
        assert run.poll() is None, run.stderr.read() if run.stderr else ""
        assert time.monotonic() < limit
        time.sleep(0.02)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    return run.returncode, said


def weights(folder: Path) -> dict[str, bytes]:
    saved = io.load(io.find(folder))
    assert saved.state["step"] == 88
    return {name: array.tobytes() for name, array in (saved.model | saved.optimizer).items()}


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Weights and velocities at the end of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert start(root, folder).wait(300) == 0
    return weights(folder)


@pytest.mark.parametrize(
    ("number", "workers", "after"),
    [
        (signal.SIGTERM, 2, "epoch 2/4: step"),
        pytest.param(signal.SIGINT, 0, "pretrain step 1/", marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_the_run_for_later(
    whole: dict[str, bytes], tmp_path: Path, root: Path, number: signal.Signals, workers: int, after: str
) -> None:
    loader = f"DataLoader.Train.loader.num_workers={workers}"
    code, said = stop(start(root, tmp_path / "run", loader), tmp_path / "run", number, after)
    assert code == 75
    step = io.load(io.find(tmp_path / "run")).state["step"]
    assert 0 < step < 88
    assert f"stopped by {number.name} after step {step}, which is saved; the same command" in said
    again = start(root, tmp_path / "run", loader)
    assert again.wait(300) == 0
    assert weights(tmp_path / "run") == whole
    assert "ENDED" in (tmp_path / "run/log.txt").read_text()
