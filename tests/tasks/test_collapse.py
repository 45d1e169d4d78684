"""Collapse on purpose: without stop-gradient SimSiam collapses and the guard ends the run; as it should be, neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from passl_simsiam.checkpoint import io
from passl_simsiam.commands import train
from passl_simsiam.log import read_metrics

#: A narrow backbone, looked at often. The narrow ones of other tests are too small to collapse without doubt.
SHORT = ["Global.max_steps=110", "Model.backbone.width=4", "Evaluation.knn=null", "Evaluation.baselines=false"]
SHORT += ["Evaluation.few_label=null", "Health={every: 6, grace_steps: 30, reports: 2}", "Global.seed=2"]


def run(root: Path, recipe: str, folder: Path, *overrides: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and the records of the health callback."""
    arguments = ["-c", str(root / "configs" / recipe), "-o", *SHORT, f"Global.output_dir={folder}", *overrides]
    code = train.main(arguments)
    return code, [r for r in read_metrics(folder / "metrics.jsonl") if "health/std" in r]


@pytest.mark.parametrize("batch_norm", ["all", "hidden"])
def test_without_stop_gradient_it_collapses_and_the_guard_ends_the_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_norm: str
) -> None:
    """With batch norm on its output z keeps one direction, for a few images of a batch; without it nothing is left."""
    folder = tmp_path / "run"
    code, reports = run(root, "ablations/no_stop_gradient.yaml", folder, f"Model.neck.batch_norm={batch_norm}")
    out, error = capsys.readouterr()
    assert code == 1
    assert error.startswith("error: training stopped, the representation has collapsed: z/|z| spreads ")
    assert error.count("\n") == 1
    causes = ("a small batch (here 64)", "learning rate (0.3)", "DigitsViews", "no batch norm", "predictor")
    assert [error.find(cause) for cause in causes] == sorted(error.find(cause) for cause in causes)
    assert all(cause in error for cause in causes)
    assert out.count("warning: the representation is collapsing") == 1

    last = reports[-1]
    if batch_norm == "all":
        assert last["health/rank_z"] < 3
        assert last["health/relative_std"] < 0.7
    else:
        assert last["health/relative_std"] < 0.1
    assert last["step"] < 110
    saved = io.load(io.find(folder))
    assert saved.state["step"] == last["step"]
    assert (folder / "report/report.md").exists()


def test_the_recipe_does_not(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, reports = run(root, "simsiam_r18_pt_digits.yaml", tmp_path / "run", "Global.max_steps=80")
    assert code == 0
    assert "collaps" not in capsys.readouterr().out
    assert reports[-1]["step"] == 80
    assert min(r["health/relative_std"] for r in reports) > 0.7
    assert min(r["health/rank_z"] for r in reports) > 20
