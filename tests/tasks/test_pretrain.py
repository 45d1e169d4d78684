"""A whole small pretraining: what it leaves behind, what it scores, and that a resumed run is the same run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_PRETRAINING, Run

from passl_simsiam.checkpoint import io
from passl_simsiam.commands import evaluate, train
from passl_simsiam.config import load_config
from passl_simsiam.log import read_metrics

RECIPE = "configs/simsiam_r18_pt_digits.yaml"


#: What a record holds that depends on the clock, or on steps before the process began.
NOT_COMPARED = (
    "train/images_per_second",
    "train/data_wait",
    "health/std",
    "health/relative_std",
    "health/rank",
    "health/rank_z",
)


def assert_same(left: Path, right: Path) -> None:
    """Two runs ended with the same bits in weights, velocities and records."""
    a, b = io.load(io.find(left)), io.load(io.find(right))
    assert a.state["step"] == b.state["step"]
    assert a.state["random"] == b.state["random"]
    for kind in ("model", "optimizer"):
        one, other = getattr(a, kind), getattr(b, kind)
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    records = [
        {
            (r["step"], *sorted(r)): {k: v for k, v in r.items() if k not in NOT_COMPARED}
            for r in read_metrics(f / "metrics.jsonl")
        }
        for f in (left, right)
    ]
    assert all(records[1][key] == record for key, record in records[0].items())


def checkpoints(run: Path) -> list[Path]:
    return sorted(p for p in (run / "checkpoints").iterdir() if p.is_dir() and not p.is_symlink())


def test_the_runs_folder(pretrain: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretrain("run", "Evaluation.knn.every_epochs=1", "Evaluation.few_label={labels_per_class: [1], draws: 2}")
    records = read_metrics(folder / "metrics.jsonl")

    steps = [r for r in records if "train/loss" in r]
    assert [r["step"] for r in steps] == [5, 10, 15, 20, 25, 30, 35, 40, 44]
    assert all(-1 <= r["train/loss"] <= 1 for r in steps)
    assert all(r["train/images"] == 64 * r["step"] for r in steps)
    assert [r["train/lr_predictor"] for r in steps] == [0.3] * 9
    assert steps[0]["train/lr"] == 0.3
    assert steps[-1]["train/lr"] == pytest.approx(0.15)
    assert all(0 <= r["train/data_wait"] <= 1 and r["train/images_per_second"] > 0 for r in steps[1:])

    healthy = [r for r in records if "health/std" in r]
    assert [r["step"] for r in healthy] == [22, 44]  # at the end of each epoch, once
    assert all(0.9 < r["health/relative_std"] <= 1.01 and r["health/rank"] > 5 for r in healthy)

    scored = [r for r in records if "eval/knn_top1" in r]
    assert [r["epoch"] for r in scored] == [0, 1, 2]
    assert all(0.2 < r["eval/knn_top1"] <= 1 for r in scored)
    assert scored[0]["eval/raw_pixels_knn_top1"] > 0.9

    table = list(csv.DictReader((folder / "metrics.csv").open()))
    assert len(table) == len(records)
    assert load_config(folder / "config.yaml").Global.epochs == 2
    assert "k=5, T=0.1, cosine" in (folder / "log.txt").read_text()
    assert list((folder / "vdl").iterdir())
    pictures = {"loss.png", "learning_rate.png", "std.png", "knn_top1.png", "views.png"}
    assert pictures | {"report.md"} <= {p.name for p in (folder / "report").iterdir()}
    assert "kNN" in (folder / "report/report.md").read_text()

    saved = io.load(io.find(folder))
    assert saved.path.name == "epoch_0002"
    assert saved.state["step"] == 44
    assert saved.state["metrics"]["eval/knn_top1"] == scored[-1]["eval/knn_top1"]
    assert saved.state["config"]["Model"]["backbone"]["width"] == 4
    assert (folder / "checkpoints/best").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_a_resumed_run_is_bitwise_the_same(pretrain: Run) -> None:
    whole = pretrain("whole")
    halves = pretrain("halves", "Global.max_steps=29")  # in the middle of the second epoch
    assert io.find(halves).name == "step_00000029"
    pretrain("halves", "Global.checkpoint=latest")

    assert_same(whole, halves)
    steps = [r["step"] for r in read_metrics(halves / "metrics.jsonl") if "train/loss" in r]
    assert steps == sorted(set(steps))


def test_a_finished_run_resumes_to_nothing(pretrain: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretrain("run")
    before = (folder / "metrics.jsonl").read_bytes()
    pretrain("run", "Global.checkpoint=latest")
    assert "nothing to train" in capsys.readouterr().out
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_runs_folder_is_not_overwritten(pretrain: Run, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretrain("run", "Global.max_steps=1")
    before = (folder / "metrics.jsonl").read_bytes()
    code = train.main(["-c", str(root / RECIPE), "-o", *TINY_PRETRAINING, f"Global.output_dir={folder}"])
    assert code == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_changed_recipe_is_told_on_resume(pretrain: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain("run", "Global.max_steps=1")
    pretrain("run", "Global.max_steps=2", "Global.checkpoint=latest", "Optimizer.weight_decay=1e-3")
    assert "Optimizer.weight_decay (0.0005 -> 0.001)" in capsys.readouterr().out


def test_evaluation_repeats_the_last_score(pretrain: Run, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretrain("run")
    last = [r["eval/knn_top1"] for r in read_metrics(folder / "metrics.jsonl") if "eval/knn_top1" in r][-1]
    before = sorted(p.name for p in folder.rglob("*"))
    capsys.readouterr()
    code = evaluate.main(
        ["-c", str(root / RECIPE), "-o", *TINY_PRETRAINING, f"Global.output_dir={folder}", "Global.checkpoint=latest"]
    )
    assert code == 0
    assert f"kNN top-1 {last:.4f} (k=5" in capsys.readouterr().out
    added = {p.name for p in folder.rglob("*") if p.parent.name != "features"} - set(before)
    assert added <= {"scorecard.json", "scorecard.md", "features", "README.md"}


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = ["LRScheduler.learning_rate=1e30", "Global.print_batch_step=1", f"Global.output_dir={tmp_path}/run"]
    wild += ["Evaluation.baselines=false", "Global.max_skipped_steps=3"]
    assert train.main(["-c", str(root / RECIPE), "-o", *TINY_PRETRAINING, *wild]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the loss is nan at step")
    assert error.count("\n") == 1
    (report,) = (tmp_path / "run").glob("nonfinite_step_*.json")
    batch = json.loads(report.read_text())["batch"]
    assert len({sample["index"] for sample in batch}) == 64
    saved = io.load(io.find(tmp_path / "run"))
    assert saved.state["step"] == int(report.stem[-8:]) - 3
    assert all(np.isfinite(array).all() for array in saved.model.values())
    assert "ENDED: the loss is nan" in (tmp_path / "run/log.txt").read_text()


def test_a_passing_fault_of_the_machine_leaves_no_trace(pretrain: Run, root: Path) -> None:
    """Too many steps in a row that are not finite end the run before the first of them; the next one redoes them."""
    whole = pretrain("whole")
    folder = whole.with_name("hurt")
    overrides = [*TINY_PRETRAINING, f"Global.output_dir={folder}", "Global.max_skipped_steps=3"]
    fault = "Faults={nonfinite_step: 20, nonfinite_count: 3}"  # across the end of the first epoch, at step 22
    assert train.main(["-c", str(root / RECIPE), "-o", *overrides, fault]) == 1
    assert io.load(io.find(folder)).state["step"] == 20
    pretrain("hurt", "Global.checkpoint=auto")
    assert_same(whole, folder)


def test_a_few_steps_that_are_not_finite_are_skipped(pretrain: Run) -> None:
    folder = pretrain("run", "Faults={nonfinite_step: 20, nonfinite_count: 3}")
    saved = io.load(io.find(folder))
    assert (saved.state["step"], saved.state["skipped"], saved.state["skipped_in_a_row"]) == (44, 3, 0)
    assert all(np.isfinite(array).all() for array in saved.model.values())
    assert (
        "WARNING step 23 skipped: loss or gradients are not finite (3 in a row, 3 in all)"
        in (folder / "log.txt").read_text()
    )


def test_checkpoints_by_step_and_by_the_clock(pretrain: Run) -> None:
    saves = ["Global.save_every_epochs=100", "Global.keep_last=100", "Evaluation.baselines=false"]
    by_step = pretrain("steps", *saves, "Global.save_every_steps=15", "Global.max_steps=40")
    assert [c.name for c in checkpoints(by_step)] == ["step_00000015", "step_00000030", "step_00000040"]
    by_clock = pretrain("clock", *saves, "Global.save_every_minutes=0.0001", "Global.max_steps=5")
    assert len(checkpoints(by_clock)) >= 4


def test_mixed_precision_is_not_for_cpus_and_says_so_once(pretrain: Run) -> None:
    short = ["Global.max_steps=3", "Evaluation.baselines=false"]
    plain = pretrain("plain", *short)
    mixed = pretrain("mixed", *short, "AMP={level: O2, dtype: float16}")
    assert_same(plain, mixed)
    assert (mixed / "log.txt").read_text().count("AMP O2 float16: not on a CPU") == 1


def test_a_save_that_fails_is_told_and_the_run_goes_on(
    pretrain: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, save = [], io.save

    def full_disk(run: Path, name: str, **contents: object) -> Path:
        if name == "step_00000010":
            failed.append(name)
            raise io.CheckpointError(f"checkpoint {name} could not be saved: No space left on device")
        return save(run, name, **contents)  # type: ignore[arg-type]

    monkeypatch.setattr(io, "save", full_disk)
    steps = ["Global.save_every_steps=5", "Global.max_steps=15", "Evaluation.baselines=false", "Global.keep_last=9"]
    folder = pretrain("warned", *steps)
    assert [c.name for c in checkpoints(folder)] == ["step_00000005", "step_00000015"]
    assert "WARNING NOT SAVED: checkpoint step_00000010" in (folder / "log.txt").read_text()

    stopped = folder.with_name("stopped")
    overrides = [*TINY_PRETRAINING, *steps, f"Global.output_dir={stopped}", "Global.on_save_error=stop"]
    assert train.main(["-c", str(root / RECIPE), "-o", *overrides]) == 75
    assert [c.name for c in checkpoints(stopped)] == ["step_00000005", "step_00000011"]
    assert failed == ["step_00000010"] * 2


def test_a_best_epoch_that_a_kill_left_unmarked_is_marked_on_resume(pretrain: Run) -> None:
    each = ["Evaluation.knn.every_epochs=1", "Evaluation.baselines=false", "Global.keep_last=9"]
    folder = pretrain("run", *each, "Global.max_steps=22")
    (best := folder / "checkpoints/best").unlink()
    pretrain("run", *each, "Global.max_steps=23", "Global.checkpoint=auto")
    assert best.resolve().name == "epoch_0001"


def test_auto_starts_anew_or_goes_on(pretrain: Run) -> None:
    folder = pretrain("run", "Global.checkpoint=auto", "Global.max_steps=5")
    pretrain("run", "Global.checkpoint=auto", "Global.max_steps=8")
    assert [c.name for c in checkpoints(folder)] == ["step_00000005", "step_00000008"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(pretrain: Run) -> None:
    whole = pretrain("whole", "Evaluation.baselines=false")
    folder = pretrain("run", "Global.max_steps=30", "Global.save_every_steps=10", "Evaluation.baselines=false")
    weights = folder / "checkpoints/step_00000030/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    pretrain("run", "Global.checkpoint=auto", "Evaluation.baselines=false")
    said = (folder / "log.txt").read_text()
    assert "step_00000030 is damaged: model.safetensors has" in said
    assert "resuming from" in said
    assert_same(whole, folder)


def test_images_without_labels(pretrain: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(70):
        cv2.imwrite(str(photos / f"{i}.png"), np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8))
    dataset = f"{{name: ImageFolder, root: {photos}, transform: {{name: CIFAR, size: 16}}}}"
    folder = pretrain("run", f"DataLoader.Train.dataset={dataset}", "Global.epochs=1")
    assert "kNN monitor off: the training images have no labels" in capsys.readouterr().out
    assert not any("eval/knn_top1" in json.loads(line) for line in (folder / "metrics.jsonl").open())
    assert io.find(folder).name == "epoch_0001"


def test_another_method_is_a_recipe(tmp_path: Path, root: Path) -> None:
    recipe = root / "configs/simclr_r18_pt_digits.yaml"
    overrides = ["Global.max_steps=6", "Model.backbone.width=4", f"Global.output_dir={tmp_path}/run"]
    overrides += ["Evaluation.few_label=null", "Evaluation.baselines=false", "Global.print_batch_step=1"]
    assert train.main(["-c", str(recipe), "-o", *overrides]) == 0
    losses = [r["train/loss"] for r in read_metrics(tmp_path / "run/metrics.jsonl") if "train/loss" in r]
    assert losses[0] == pytest.approx(np.log(127), rel=0.2)  # 127 candidates of a batch of 64 pairs, none known yet
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["DataLoader.Train.sampler.batch_size=5000"], "5000 is larger than the data set"),
        (["Loss={name: NTXent}", "Model.name=SimCLR"], "Model.head: SimCLR has no head"),
        (["Loss={name: CrossEntropy}"], "Loss: CrossEntropy needs 'logits' of the model; SimSiam gives h, p, z"),
        (["DataLoader.Train.dataset.transform={name: Resize, size: 16}"], "pretraining compares two views"),
        (["Model.neck=null"], "Model.neck: SimSiam needs a neck"),
        (["Model.head.hidden_channels=0"], "Model.head.hidden_channels: 0"),
        (["Model.backbone.name=ResNet19"], "Model.backbone.name: unknown backbone 'ResNet19'; did you mean"),
        (["Model.backbone.wdth=3"], "ResNet18 takes no argument 'wdth'; did you mean 'width'?"),
        (["DataLoader.Train.dataset.split=trian"], "trian"),
        (["Global.checkpoint=latest"], "there is no checkpoint in"),
        (["Global.pretrained_model=nowhere"], "there are no weights at nowhere"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], words: str
) -> None:
    folder = tmp_path / "run"
    code = train.main(["-c", str(root / RECIPE), "-o", *TINY_PRETRAINING, f"Global.output_dir={folder}", *overrides])
    error = capsys.readouterr().err
    assert code == 2
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
