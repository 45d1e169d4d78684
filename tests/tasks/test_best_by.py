"""Choosing `best` without labels, and ending training when nothing better comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TINY_PRETRAINING, Run

from passl_simsiam.checkpoint import io
from passl_simsiam.commands import train
from passl_simsiam.log import read_metrics

UNLABELLED = ["Evaluation.knn=null", "Evaluation.baselines=false", "Global.keep_last=1"]


def test_best_by_effective_rank(pretrain: Run) -> None:
    folder = pretrain("run", *UNLABELLED, "Global.epochs=3", "Evaluation.best_by.metric=health/rank")
    ranks = {r["epoch"]: r["health/rank"] for r in read_metrics(folder / "metrics.jsonl") if "health/rank" in r}
    assert set(ranks) == {1, 2, 3}
    best = max(ranks, key=lambda epoch: ranks[epoch])
    assert io.find(folder, "best").name == f"epoch_{best:04d}"
    state = io.load(io.find(folder)).state
    assert (state["best"], state["best_epoch"], state["best_by"]) == (ranks[best], best, "health/rank")


def test_without_labels_and_without_a_metric_there_is_no_best(pretrain: Run) -> None:
    folder = pretrain("run", *UNLABELLED, "Global.epochs=1")
    assert io.find(folder, "latest").name == "epoch_0001"
    assert not (folder / "checkpoints/best").exists()


def test_early_stopping(pretrain: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss falls, so that the highest is the first."""
    best_by = "Evaluation.best_by={metric: train/epoch_loss, mode: max, patience: 2}"
    folder = pretrain("run", *UNLABELLED, "Global.epochs=9", best_by)
    said = capsys.readouterr().out
    assert "training ends early: no better train/epoch_loss than" in said
    assert "of epoch 1 in 2 epochs" in said
    assert max(r["epoch"] for r in read_metrics(folder / "metrics.jsonl")) == 3
    assert io.load(io.find(folder)).state["epoch"] == 3
    assert io.find(folder, "best").name == "epoch_0001"
    assert (folder / "report/report.md").exists()


@pytest.mark.parametrize(
    ("best_by", "words"),
    [
        (
            "{metric: health/rnk}",
            "Evaluation.best_by.metric: 'health/rnk' is not measured; did you mean 'health/rank'?",
        ),
        ("{metric: eval/knn_top1}", "'eval/knn_top1' is not measured"),
        ("{patience: 3}", "Evaluation.best_by.patience: there is no kNN top-1 to wait for"),
        ("{patience: 0}", "Evaluation.best_by.patience"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], best_by: str, words: str
) -> None:
    recipe = str(root / "configs/simsiam_r18_pt_digits.yaml")
    overrides = [*TINY_PRETRAINING, *UNLABELLED, f"Evaluation.best_by={best_by}", f"Global.output_dir={tmp_path}/run"]
    assert train.main(["-c", recipe, "-o", *overrides]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
