"""Runs whose data workers are killed as fast as they come, or whose images are broken."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import TINY_PRETRAINING

from passl_simsiam.checkpoint import io
from passl_simsiam.commands import train

MAIN = "import sys; from passl_simsiam.commands.train import main; sys.exit(main(sys.argv[1:]))"
RESTARTS = 3


def workers(trainer: int) -> list[int]:
    """The data workers among the children of a process."""
    found = []
    for child in Path(f"/proc/{trainer}/task/{trainer}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"passl_simsiam.data.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_run_that_loses_every_worker_ends_with_a_good_checkpoint(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    changes = [
        *TINY_PRETRAINING,
        f"Global.output_dir={run}",
        "Global.epochs=10000",
        "DataLoader.Eval=null",
        "DataLoader.Train.loader.num_workers=2",
        f"DataLoader.Train.loader.max_restarts={RESTARTS}",
    ]
    command = [sys.executable, "-c", MAIN, "-c", str(root / "configs/simsiam_r18_pt_digits.yaml"), "-o", *changes]
    killed = set()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as trainer:
        deadline = time.monotonic() + 300  # a busy machine may take long; the test fails only if nothing ends the run
        while trainer.poll() is None:
            if time.monotonic() > deadline:
                trainer.kill()
                pytest.fail("the run goes on without workers")
            if (run / "checkpoints/latest").exists():
                for pid in workers(trainer.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.02)
        assert trainer.stderr is not None
        said = trainer.stderr.read()

    assert trainer.returncode == 1
    assert len(killed) > RESTARTS
    last = said.splitlines()[-1]
    assert last.startswith("error: data worker")
    assert "was killed by SIGKILL" in last
    assert last.endswith(f"more than {RESTARTS} workers were lost within an hour")
    assert "Traceback" not in said
    checkpoint = io.load(io.find(run))
    assert checkpoint.state["step"] > 0
    assert all(np.isfinite(array).all() for array in checkpoint.model.values())


@pytest.mark.parametrize(("borne", "code"), [(0.2, 0), (0.1, 2)])
def test_a_run_bears_as_many_bad_images_as_its_recipe_says(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], borne: float, code: int
) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for number in range(20):
        path = photos / f"{number:02d}.png"
        image = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        assert cv2.imwrite(str(path), image)
        if number < 3:
            path.write_bytes(path.read_bytes()[:500])
    changes = [
        "Global.epochs=1",
        f"Global.output_dir={run}",
        "Model.backbone={name: ResNet18, width: 4, stem: cifar}",
        "Model.neck.hidden_channels=32",
        "Model.neck.out_channels=32",
        "DataLoader.Eval=null",
        f"DataLoader.Train.dataset.root={photos}",
        "DataLoader.Train.dataset.transform.size=32",
        "DataLoader.Train.sampler.batch_size=10",
        f"DataLoader.Train.loader={{num_workers: 1, max_bad_fraction: {borne}}}",
    ]
    assert train.main(["-c", str(root / "configs/simsiam_r18_pt_folder.yaml"), "-o", *changes]) == code
    said = capsys.readouterr()
    log = (run / "log.txt").read_text()
    broken = [number for number in range(3) if f"{number:02d}.png (truncated PNG" in log]
    assert len(broken) == 3
    if code == 0:
        assert io.load(io.find(run)).state["step"] == 2
    else:
        assert "error: 3 of 20 samples (15.0%) are bad, more than max_bad_fraction = 0.1 allows: " in said.err
        assert all(f"{number:02d}.png (truncated PNG" in said.err.splitlines()[-1] for number in broken)
