"""Runs compared: what differs, what they scored, and when scores are not to be compared."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from passl_simsiam.errors import UserError
from passl_simsiam.evaluation import scorecard
from passl_simsiam.evaluation.compare import compare
from passl_simsiam.evaluation.scorecard import Entry


def make_run(folder: Path, *, rate: float, k: int = 5, top1: float = 0.5) -> Path:
    folder.mkdir(parents=True)
    recipe = f"Global: {{output_dir: {folder}, epochs: 3}}\nLRScheduler: {{learning_rate: {rate}}}\n"
    (folder / "config.yaml").write_text(recipe + "DataLoader: {Train: {sampler: {batch_size: 64}}}\n")
    records = [{"step": s, "epoch": 1 + s // 10, "train/loss": -s / 30} for s in range(30)]
    records += [{"step": 29, "epoch": 3, "eval/knn_top1": top1, "health/std": None}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = {"k": k, "layer": "backbone"}
    scorecard.append(folder, Entry("knn", {"top1": 0.1}, settings, {"sha256": "0"}, "x", 1.0, "before", "v"))
    scorecard.append(folder, Entry("knn", {"top1": top1}, settings, {"sha256": "0"}, "x", 1.0, "now", "v"))
    return folder


def cells(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def test_what_differs_and_the_last_scores(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", rate=0.1), make_run(tmp_path / "b", rate=0.2, top1=0.75)]
    path, text = compare(runs, tmp_path / "out" / "table.md")
    table = cells(text)
    assert table[""] == ["a", "b"]
    assert table["LRScheduler.learning_rate"] == ["0.1", "0.2"]
    assert "Global.output_dir" not in table
    assert "Global.epochs" not in table
    assert table["loss"] == ["-0.9667", "-0.9667"]
    assert table["kNN top-1 (%)"] == table["kNN: top-1 (%)"] == ["50.00", "75.00"]
    assert "std" not in text
    assert "not the same protocol" not in text
    assert text in path.read_text()
    assert "table.png" in path.read_text()
    assert cv2.imread(str(tmp_path / "out" / "table.png")).shape[1] > 600


def test_another_protocol_is_marked(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "x" / "run", rate=0.1), make_run(tmp_path / "y" / "run", rate=0.1, k=20)]
    table = cells(text := compare(runs, tmp_path / "compare.md")[1])
    assert table[""] == ["x/run", "y/run"]
    assert table["kNN: top-1 (%)*"] == ["50.00", "50.00"]
    assert "* not the same protocol, so not to be compared: k=5, layer=backbone, data=x / k=20" in text


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", rate=0.1)
    for folders, words in (
        ([run], "two runs"),
        ([run, tmp_path], "is no run's folder"),
        ([run, run], "given twice"),
    ):
        with pytest.raises(UserError, match=words):
            compare(folders, tmp_path / "compare.md")
