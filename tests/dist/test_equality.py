"""The same recipe on one and on several processes is the same training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from passl_simsiam.log import read_metrics

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "configs/simsiam_r18_pt_digits.yaml"
SMALL = ["Global.epochs=1", "Global.print_batch_step=1", "Global.device=cpu", "Model.backbone.width=4"]
SMALL += ["Model.neck.hidden_channels=32", "Model.neck.out_channels=32", "Evaluation.knn.every_epochs=1"]
SMALL += ["Evaluation.baselines=false", "Evaluation.few_label={labels_per_class: [5], draws: 2}"]


def train(folder: Path, processes: int, *overrides: str) -> list[dict]:
    """Train the small recipe in float64; its records."""
    arguments = [str(HERE / "double.py"), "-c", str(RECIPE), "-o", *SMALL, f"Global.output_dir={folder}", *overrides]
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir", f"{folder}_log"]
    command = [sys.executable, *(launcher if processes > 1 else []), *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "CUDA_VISIBLE_DEVICES"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return read_metrics(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return train(tmp_path_factory.mktemp("alone") / "run", 1)


def losses(records: list[dict]) -> list[float]:
    return [record["train/loss"] for record in records if "train/loss" in record]


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_losses_and_knn(alone: list[dict], tmp_path: Path, processes: int) -> None:
    together = train(tmp_path / "run", processes)
    assert len(losses(together)) == 22
    assert losses(together) == pytest.approx(losses(alone), rel=1e-6)
    scores = [[r["eval/knn_top1"] for r in records if "eval/knn_top1" in r] for records in (alone, together)]
    assert scores[0] == scores[1] != []


def test_without_synchronised_batch_norm_it_is_another_training(alone: list[dict], tmp_path: Path) -> None:
    """So the equality above is the synchronisation's doing."""
    apart = train(tmp_path / "run", 2, "Global.sync_batch_norm=false", "Global.max_steps=2")
    assert losses(apart)[0] != pytest.approx(losses(alone)[0], rel=1e-6)
