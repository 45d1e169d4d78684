"""The report: its words say what its numbers say, its pictures show the data."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl_simsiam.evaluation import pictures
from passl_simsiam.evaluation.few_label import FewLabelRow
from passl_simsiam.evaluation.report import Report, Score, knn_baselines, write_report

DIM = 2048


def records(steps=40, std=0.02):
    rows = [{"step": 0, "epoch": 0, "eval/knn_top1": 0.612, "eval/raw_pixels_knn_top1": 0.972}]
    for step in range(1, steps + 1):
        rows.append(
            {
                "step": step,
                "epoch": (step + 9) // 10,
                "train/loss": -step / 50 if step != 5 else None,  # a NaN, as metrics.jsonl holds it
                "train/lr": 0.05 * (1 - step / steps),
                "train/lr_predictor": 0.05,
                "train/images": 64 * step,
                "health/std": std,
            }
        )
        if step % 10 == 0:
            rows.append({"step": step, "epoch": step // 10, "eval/knn_top1": 0.9 + step / 1000, "health/rank": step})
    return rows


def report(**changes):
    rows = changes.pop("records", records())
    views = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 1)).astype(np.uint8)
    return Report(
        **{
            "title": "SimSiam on digits",
            "trained": {"model": "ResNet18"},
            "records": rows,
            "scores": [Score("kNN top-1", "eval/knn_top1", 0.94, "k=5, T=0.1, cosine", knn_baselines(rows), 10)],
            "few_label": [FewLabelRow(1, {"features": np.array([0.7, 0.8]), "pixels": np.array([0.5, 0.5])})],
            "views": list(views),
            "embedding_dim": DIM,
        }
        | changes
    )


def test_numbers_protocol_and_pictures_are_in_the_report(tmp_path):
    text = write_report(tmp_path, report()).read_text()
    for part in (
        "- model: ResNet18",
        "- epochs: 4",
        "- images seen: 2,560",
        "| **this run** | 94.0 |",
        "| raw pixels | 97.2 |",
        "| random weights | 61.2 |",
        "| chance | 10.0 |",
        "training added 32.8 points",
        "97.2 %, 3.2 points more",
        "Protocol: k=5, T=0.1, cosine.",
        "| 1 | 75.0 ± 5.0 | 50.0 ± 0.0 |",
        "1/√2048 = 0.0221; this run ended at 0.0200, 91% of that: no sign of a collapse",
    ):
        assert part in text
    shown = {line[line.index("](") + 2 : -1] for line in text.splitlines() if line.startswith("![")}
    assert shown == {"loss.png", "std.png", "rank.png", "learning_rate.png", "knn_top1.png", "views.png"}
    assert shown == {path.name for path in tmp_path.glob("*.png")}
    assert all(np.asarray(Image.open(tmp_path / name).convert("L")).std() > 10 for name in shown)


@pytest.mark.parametrize(("std", "verdict"), [(1e-5, ": a collapse."), (0.004, ": a partial collapse.")])
def test_a_collapse_is_called_one(tmp_path, std, verdict):
    assert verdict in write_report(tmp_path, report(records=records(std=std))).read_text()


def test_training_that_did_not_help_is_said(tmp_path):
    score = Score("kNN top-1", "eval/knn_top1", 0.12, "k=5", {"random weights": 0.6}, 10)
    text = write_report(tmp_path, report(scores=[score])).read_text()
    assert "close to guessing" in text
    assert "training has not helped (-48.0 points)" in text


def test_a_probe_has_a_report_without_what_it_does_not_have(tmp_path):
    rows = [{"step": 1, "epoch": 1, "train/loss": 2.0, "train/lr": 0.1}, {"step": 1, "epoch": 1, "eval/top1": 0.5}]
    probe = Report("Linear probe", {}, rows, [Score("top-1", "eval/top1", 0.5, "val split")], loss="CrossEntropy")
    text = write_report(tmp_path, probe).read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {"loss.png", "learning_rate.png", "top1.png"}
    assert "Cross-entropy on the training images" in text
    assert "collapse" not in text


def test_chance_of_a_top5_is_that_of_five_guesses(tmp_path):
    top5 = Score("top-5", "eval/top5", 0.96, "val split", {}, classes=10, k=5)
    text = write_report(tmp_path, Report("Linear probe", {}, [], [top5])).read_text()
    assert "| chance | 50.0 |" in text
    assert "The right class is among the best 5 for 96 of 100 test images." in text
    assert "close to guessing" not in text


def test_a_run_without_records_has_a_report(tmp_path):
    assert write_report(tmp_path, Report("Empty", {}, [])).read_text().startswith("# Empty")
    assert not list(tmp_path.glob("*.png"))


def test_curves_hold_the_recorded_points():
    rows = records()
    steps, loss = pictures.series(rows, "train/loss")
    assert (len(steps), 5 in steps) == (39, False)
    figure = pictures.loss_curve(rows)
    assert figure is not None
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), np.stack([steps, loss], axis=1))
    spread = pictures.std_curve(rows, DIM)
    assert spread is not None
    assert spread.axes[0].lines[1].get_ydata()[0] == pytest.approx(DIM**-0.5)
    rates = pictures.rate_curves(rows)
    assert rates is not None
    assert len(rates.axes[0].lines) == 2


def test_running_mean_of_many_points_is_centred():
    steps = np.arange(1000)
    figure = pictures.loss_curve([{"step": int(step), "train/loss": float(step)} for step in steps])
    assert figure is not None
    x, mean = figure.axes[0].lines[1].get_data()
    assert len(x) == 1000 - 20 + 1
    np.testing.assert_allclose(x, mean, atol=0.51)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (224, 3)])
def test_view_grid_shows_the_views_of_an_image_side_by_side(size, channels):
    shades = np.array([40, 120, 200], np.uint8)
    first = np.broadcast_to(shades[:, None, None, None], (3, size, size, channels))
    grid = pictures.view_grid([first, first + 20], columns=2)
    cell = pictures.THUMBNAIL + 2
    assert grid.dtype == np.uint8
    assert grid.shape == (2 * (cell + 10), 2 * (2 * cell + 10), 3)
    centre = cell // 2
    row = grid[centre, [centre, cell + centre, 2 * cell + 10 + centre, 3 * cell + 10 + centre], 0]
    np.testing.assert_array_equal(row, [40, 60, 120, 140])
