"""The report that a run ends with, and the same made again from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY, TINY_PRETRAINING, Run
from untrained import ROOT, save_untrained
from visualdl.proto.record_pb2 import Record

from passl_simsiam.commands import evaluate as command
from passl_simsiam.config import load_config, to_yaml
from passl_simsiam.data.datasets.digits import Digits
from passl_simsiam.evaluation import document, scorecard
from passl_simsiam.log.events import _whole_records
from passl_simsiam.tasks.html_report import write_html
from passl_simsiam.tasks.rereport import report_again

FromString = Record.FromString
OF_FEATURES = {"map.png", "map_images.png", "neighbours.png"}
RECORDS = [
    {"step": 0, "epoch": 0, "eval/knn_top1": 0.5},
    {"step": 7, "epoch": 1, "train/loss": -0.4, "train/lr": 0.1, "health/std": 0.17, "health/rank": 3.0},
    {"step": 7, "epoch": 1, "eval/knn_top1": 0.8125, "eval/top1": 0.8125, "eval/top5": 0.95},
]


def finished(folder: Path, task: str, *overrides: str) -> Path:
    """What a run leaves behind, without its report."""
    tiny = [*(TINY_PRETRAINING if task == "pt" else TINY), "Evaluation.pictures=true", *overrides]
    save_untrained(folder, task, *overrides)
    recipe = load_config(ROOT / f"configs/simsiam_r18_{task}_digits.yaml", [*tiny, f"Global.output_dir={folder}"])
    (folder / "config.yaml").write_text(to_yaml(recipe))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return folder


def shown(run: Path) -> set[str]:
    return {picture.file for picture in document.read(run / "report").pictures()}


def page(run: Path) -> str:
    return (run / "report/index.html").read_text(encoding="utf-8")


def test_a_pretraining_ends_with_its_pictures(pretrain: Run):
    run = pretrain("run", "Evaluation.pictures=true", "Global.epochs=1")
    curves = {"loss.png", "std.png", "rank.png", "learning_rate.png", "knn_top1.png", "views.png"}
    assert shown(run) == curves | OF_FEATURES | {"similarity.png"}
    assert page(run).count("<img ") == len(shown(run))
    for name in shown(run):
        assert np.asarray(Image.open(run / "report" / name).convert("L")).std() > 5, name

    records = [FromString(data).values[0] for _, data in _whole_records(run / "vdl/vdlrecords.log")]
    images = {record.tag for record in records if record.HasField("image")}
    assert {f"report/{name.removesuffix('.png')}" for name in OF_FEATURES} <= images
    (points,) = [record.embeddings.embeddings for record in records if record.HasField("embeddings")]
    assert [point.label[0] for point in points] == [str(label) for label in Digits("val").labels]
    assert np.std([list(point.vectors) for point in points]) > 0


def test_a_report_is_made_again(tmp_path):
    run = finished(tmp_path / "run", "pt")
    assert report_again(load_config(run / "config.yaml"), {}) == run / "report/index.html"
    assert shown(run) >= OF_FEATURES | {"similarity.png", "views.png", "knn_top1.png", "std.png"}
    html = page(run)
    for words in (
        "81.2 %",
        "random weights 50.0 %",
        "epoch_0001, sha256 ",
        "Digits(split=train), 1,433 images",
        "spread of z/|z|",
        "effective rank of the backbone",
        "passl-eval --report",
        "width: 4",  # of the recipe
    ):
        assert words in html
    assert html.count("<img ") == len(shown(run))


def test_a_probe_shows_what_it_mixes_up(tmp_path):
    run = finished(tmp_path / "run", "lp")
    assert command.main(["--report", str(run)]) == 0
    assert shown(run) >= OF_FEATURES | {"confusion.png", "top1.png"}
    assert "similarity.png" not in shown(run)
    caption = next(p.caption for p in document.read(run / "report").pictures() if p.file == "confusion.png")
    assert "364 validation images" in caption


def test_the_scorecard_is_on_the_page(tmp_path):
    run = finished(tmp_path / "run", "pt", "Evaluation.pictures=false")
    assert command.main(["--report", str(run)]) == 0
    entry = scorecard.Entry(
        "knn",
        {"top1": 0.9725, "top5": 0.99},
        {"k": 200, "temperature": 0.1, "transform": "<Resize>"},
        {"path": str(run), "step": 7, "epoch": 1, "sha256": "abcdef0123456789"},
        "Digits",
        1.5,
        "2026-01-01T00:00:00Z",
        "passl_simsiam 0.1.0",
    )
    scorecard.append(run, entry)
    write_html(run)
    for words in ("kNN, top-1", "97.25 %", "99.00 %", "<dt>k</dt><dd>200</dd>", "&lt;Resize&gt;", "abcdef012345"):
        assert words in page(run)


def test_a_run_whose_images_are_gone_shows_what_it_left(tmp_path, capsys):
    run = finished(tmp_path / "run", "pt", "Evaluation.pictures=false")
    assert command.main(["--report", str(run)]) == 0
    before = shown(run)
    (run / "report/index.html").unlink()
    data = "DataLoader.Train.dataset={name: ImageFolder, root: /nowhere, transform: {name: DigitsViews, size: 16}}"
    (run / "config.yaml").write_text(to_yaml(load_config(run / "config.yaml", [data, "DataLoader.Eval=null"])))
    assert command.main(["--report", str(run)]) == 0
    assert "does not exist; the page shows the report that is there" in capsys.readouterr().out
    assert page(run).count("<img ") == len(before)


@pytest.mark.parametrize(
    ("files", "words"),
    [((), "is no run's folder: there is no config.yaml"), (("config.yaml",), "there is no checkpoint in")],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, files, words):
    whole = finished(tmp_path / "whole", "pt")
    run = tmp_path / "run"
    run.mkdir()
    for name in files:
        (run / name).write_text((whole / name).read_text())
    capsys.readouterr()
    assert command.main(["--report", str(run)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
