"""The scorecard: what is appended can be read again, by several processes at once too."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from passl_simsiam.errors import UserError
from passl_simsiam.evaluation import scorecard
from passl_simsiam.evaluation.scorecard import Entry

ENTRY = Entry(
    protocol="knn",
    scores={"top1": 0.355, "top1_k20": 0.5},
    settings={"k": 200, "temperature": 0.1, "transform": "Resize(size=32)", "ks": [20, 200]},
    checkpoint={"path": "run/checkpoints/epoch_0005", "step": 10, "epoch": 5, "sha256": "ab" * 32},
    data="ImageFolder|x",
    seconds=12.34,
    when="2026-11-22T20:10:00Z",
    version="passl_simsiam 0, PaddlePaddle 3",
)


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    assert scorecard.read(run) == []
    other = replace(ENTRY, protocol="retrieval")
    scorecard.append(run, ENTRY)
    scorecard.append(run, other)
    assert scorecard.read(run) == [ENTRY, other]
    assert json.loads((run / "scorecard.json").read_text())["format"] == 1
    assert sorted(path.name for path in run.iterdir()) == ["scorecard.json", "scorecard.md"]


def test_the_table_holds_the_last_of_equal_entries(tmp_path: Path) -> None:
    scorecard.append(tmp_path, ENTRY)
    scorecard.append(tmp_path, replace(ENTRY, settings={**ENTRY.settings, "k": 20}))
    scorecard.append(tmp_path, replace(ENTRY, scores={"top1": 0.36}, when="later"))
    assert len(scorecard.read(tmp_path)) == 3
    rows = (tmp_path / "scorecard.md").read_text().splitlines()[4:]
    assert len(rows) == 2
    assert rows[0].startswith("| kNN | top-1 36.00 | k=200, temperature=0.1, transform=Resize(size=32), ks=20 200 |")
    assert "epoch 5, step 10, sha256 abababababab" in rows[0]
    assert "ImageFolder\\|x" in rows[0]
    assert "k=20," in rows[1]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1, "entries": [{"protocol": "knn"}]}', '{"format": 2}'])
def test_a_damaged_scorecard_is_named_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "scorecard.json").write_text(text)
    with pytest.raises(UserError, match=r"scorecard\.json"):
        scorecard.append(tmp_path, ENTRY)
    assert (tmp_path / "scorecard.json").read_text() == text


def _append_ten(folder: Path) -> None:
    for _ in range(10):
        scorecard.append(folder, ENTRY)


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_ten, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(scorecard.read(tmp_path)) == 30
