"""The commands as a shell sees them: what they print, where, and with which exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from passl_simsiam.commands import train
from passl_simsiam.config import load_config

RECIPE = "configs/simsiam_r18_pt_digits.yaml"


def run(root: Path, *arguments: str, tool: str = "train") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / f"tools/{tool}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120, check=False)


@pytest.mark.parametrize("tool", ["train", "eval"])
def test_help(root: Path, tool: str) -> None:
    done = run(root, "--help", tool=tool)
    assert done.returncode == 0
    assert "--config" in done.stdout
    assert "--override" in done.stdout


def test_print_config_is_a_recipe(root: Path, tmp_path: Path) -> None:
    done = run(root, "-c", RECIPE, "--print-config", "-o", "Global.epochs=7", "Global.seed=3")
    assert (done.returncode, done.stderr) == (0, "")
    again = tmp_path / "again.yaml"
    again.write_text(done.stdout)
    assert load_config(again) == load_config(root / RECIPE, ["Global.epochs=7", "Global.seed=3"])


@pytest.mark.parametrize(
    ("given", "node"), [("0.01", "fraction: 0.01"), ("lists/1percent.txt", "subset: lists/1percent.txt")]
)
def test_a_subset_is_a_share_or_a_list(root: Path, capsys: pytest.CaptureFixture[str], given: str, node: str) -> None:
    assert train.main(["-c", str(root / RECIPE), "--print-config", "--subset", given]) == 0
    train_node, eval_node = capsys.readouterr().out.split("  Eval:")
    assert node in train_node
    assert "subset: null" in eval_node


def test_overrides_may_be_repeated(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(root / RECIPE)
    assert train.main(["-c", recipe, "--print-config", "-o", "Global.epochs=7", "-o", "Global.seed=3"]) == 0
    printed = capsys.readouterr().out
    assert "epochs: 7" in printed
    assert "seed: 3" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-c", "configs/simsiam_r18_pt_digit.yaml"], "did you mean configs/simsiam_r18_pt_digits.yaml?"),
        (["-c", RECIPE, "-o", "Global.epoch=3"], "unknown key 'epoch'; did you mean 'epochs'?"),
        (["-c", RECIPE, "--print-config", "-o", "Loss.name=Cosine"], "Loss.name: unknown loss 'Cosine'"),
        (["-c", RECIPE, "--dry-run", "-o", "Model.neck.layers=5"], "Model.neck.layers: 5 (integer)"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(root: Path, arguments: list[str], words: str) -> None:
    done = run(root, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_debug_shows_the_traceback(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["-c", str(root / RECIPE), "--debug", "-o", "Global.epoch=3"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_dry_run_reports_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    done = run(root, "-c", RECIPE, "--dry-run", "-o", f"Global.output_dir={tmp_path}/run", "Model.backbone.width=4")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("backbone.layer4", "parameters", "GFLOPs", "peak memory", "learning rates main 0.", "one step of 64"):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []
