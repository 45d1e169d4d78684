"""Linear probe and fine-tuning on a small pretrained backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, Run

from passl_simsiam.checkpoint import io
from passl_simsiam.commands import evaluate
from passl_simsiam.commands import train as train_command
from passl_simsiam.log import read_metrics
from passl_simsiam.tasks import classify


@pytest.fixture
def pretrained(pretrain: Run) -> Path:
    return pretrain("pretrained", "Evaluation.knn=null")


def train(root: Path, task: str, folder: Path, *overrides: str) -> int:
    recipe = root / f"configs/simsiam_r18_{task}_digits.yaml"
    return train_command.main(["-c", str(recipe), "-o", *TINY, f"Global.output_dir={folder}", *overrides])


def test_linear_probe(pretrained: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "probe"
    sparse = ["Global.epochs=40", "Global.save_every_epochs=20", "Evaluation.every_epochs=10"]
    assert train(root, "lp", folder, f"Global.pretrained_model={pretrained}", *sparse) == 0
    said = capsys.readouterr().out
    assert "100 tensors loaded, 0 missing" in said
    assert "backbone unchanged: all" in said

    before, after = io.load(io.find(pretrained)).model, io.load(io.find(folder)).model
    backbone = [name for name in after if name.startswith("backbone.")]
    assert len(backbone) == 100  # 20 convolutions and 20 batch norms of 4
    for name in backbone:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert set(io.load(io.find(folder)).optimizer) == {"head.weight", "head.bias"}

    scored = [r for r in read_metrics(folder / "metrics.jsonl") if "eval/top1" in r]
    assert [r["epoch"] for r in scored] == [10, 20, 30, 40]
    assert all(r["eval/top5"] >= r["eval/top1"] for r in scored)
    best = max(r["eval/top1"] for r in scored)
    assert best > 0.3  # ten classes
    assert f"best {best:.4f}, last {scored[-1]['eval/top1']:.4f}" in said
    assert "top-1" in (folder / "report/report.md").read_text()

    assert evaluate.main(["-c", str(folder / "config.yaml")]) == 0
    assert f"top-1 {best:.4f}" in capsys.readouterr().out


def test_a_probe_that_moved_its_backbone_is_an_error(
    pretrained: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself, on a learner that leaves batch norm in training mode."""
    monkeypatch.setattr(classify.Classification, "train", lambda self: self.model.train())
    with pytest.raises(RuntimeError, match=r"changed .* tensors of the backbone, such as .*_mean"):
        train(root, "lp", tmp_path / "probe", f"Global.pretrained_model={pretrained}", "Global.max_steps=1")


def test_fine_tuning_moves_everything(pretrained: Path, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "finetuned"
    assert train(root, "ft", folder, f"Global.pretrained_model={pretrained}/checkpoints/latest") == 0
    before, after = io.load(io.find(pretrained)).model, io.load(io.find(folder)).model
    assert all((before[n] != after[n]).any() for n in after if n.startswith("backbone.") and n.endswith("conv1.weight"))
    records = [r for r in read_metrics(folder / "metrics.jsonl") if "train/lr" in r]
    assert records[0]["train/lr_predictor"] == pytest.approx(10 * records[0]["train/lr"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["Global.pretrained_model=null"], "Global.pretrained_model: a linear probe scores a pretrained backbone"),
        (["Model.backbone.width=6"], "do not fit ResNet18"),
        (["Model.backbone.name=ResNet34"], "missing"),
        (["DataLoader.Eval=null"], "DataLoader.Eval: linear_probe needs images to score on"),
        (["Loss.name=NegativeCosine"], "Loss: NegativeCosine needs 'z' of the model; Classifier gives labels, logits"),
        (["Model.name=SimSiam"], "needs a neck"),
    ],
)
def test_mistakes_end_in_one_line(
    pretrained: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    words: str,
) -> None:
    capsys.readouterr()
    code = train(root, "lp", tmp_path / "probe", f"Global.pretrained_model={pretrained}", *overrides)
    error = capsys.readouterr().err
    assert code == 2
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
