"""A run's model card is there when it ends, and the README that the user puts in its place stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import Run

from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.durable import digest
from passl_simsiam.evaluation.scorecard import Entry, append
from passl_simsiam.log import RunLog
from passl_simsiam.tasks.card import update_card

ENTRY = Entry("retrieval", {"recall_at_1": 0.75}, {}, {"sha256": "ab"}, "somewhere", 1.0, "now", "v")


def test_a_run_ends_with_its_card(pretrain: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = pretrain("run")
    best = io.pointed(run / io.FOLDER, "best")
    assert best is not None
    card = (run / "README.md").read_text()
    state = json.loads((best / io.STATE).read_text())
    assert f"| kNN top-1 | {100 * state['metrics']['eval/knn_top1']:.2f} |" in card
    assert digest(best / io.MODEL) in card
    assert "10 classes, not used for training: 0, 1, 2" in card
    assert "| the same, raw pixels | 9" in card
    assert f"model card: {run}/README.md" in capsys.readouterr().out

    append(run, ENTRY)
    with RunLog(None) as log:
        update_card(run, log)
    assert "recall at 1 75.00" in (run / "README.md").read_text()

    (run / "README.md").write_text("mine")
    (best / io.STATE).write_text("{}")
    with RunLog(None) as log:
        update_card(run, log)
    assert (run / "README.md").read_text() == "mine"
    assert "no model card of this run" in "".join(capsys.readouterr())


def test_no_checkpoint_no_card(tmp_path: Path) -> None:
    with RunLog(None) as log:
        update_card(tmp_path, log)
    assert list(tmp_path.iterdir()) == []
