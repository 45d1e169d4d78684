"""passl-eval on a small digits run: every protocol, the features it keeps, and the scorecard it leaves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from tiny import TINY, Run

from passl_simsiam.commands import evaluate
from passl_simsiam.commands import train as train_command
from passl_simsiam.data.datasets.digits import Digits
from passl_simsiam.evaluation import scorecard
from passl_simsiam.evaluation.metrics import chance_level
from passl_simsiam.log import RunLog, read_metrics
from passl_simsiam.tasks import entries


def kept_features(run: Path) -> dict[tuple[str, int], np.ndarray]:
    """By layer and number of images."""
    found = {}
    for path in (run / "features").glob("*.json"):
        key = json.loads(path.read_text())["key"]
        found[key["layer"], key["images"]] = np.load(path.with_suffix(".npy"))
    return found


def test_the_scorecard_of_a_run(pretrain: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = pretrain("run")
    assert evaluate.main(["--run", str(run), "--protocol", "all", "-o", "Global.checkpoint=latest"]) == 0
    said = capsys.readouterr().out
    found = {entry.protocol: entry for entry in scorecard.read(run)}
    assert list(found) == ["knn", "linear_fast", "logistic", "few_label", "retrieval"]
    for entry in found.values():
        assert entry.settings["layer"] == "backbone"
        assert entry.settings["transform"] == "Resize(size=16)"
        assert (entry.settings["bank"], entry.settings["queries"], entry.settings["seed"]) == (1433, 364, 0)
        assert entry.checkpoint["epoch"] == 2
        name, value = next(iter(entry.scores.items()))
        assert f"{entry.title} {scorecard.score_name(name)} {value:.4f} (" in said
        assert said.count(entry.checkpoint["sha256"][:12]) == 5

    # The scores are what scikit-learn makes of the same features.
    features = kept_features(run)
    bank, queries = features["backbone", 1433].astype(np.float64), features["backbone", 364].astype(np.float64)
    labels, truth = Digits("train").labels, Digits("val").labels
    neighbours = KNeighborsClassifier(5, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
    expected = neighbours.fit(bank, labels).score(queries, truth)
    assert found["knn"].scores["top1"] == pytest.approx(expected, abs=1.5 / 364)
    last = [r["eval/knn_top1"] for r in read_metrics(run / "metrics.jsonl") if "eval/knn_top1" in r][-1]
    assert found["knn"].scores["top1"] == last
    index = NearestNeighbors(n_neighbors=10, metric="cosine").fit(bank).kneighbors(queries, return_distance=False)
    assert found["retrieval"].scores["precision_at_10"] == pytest.approx(
        (labels[index] == truth[:, None]).mean(), abs=1.5 / 3640
    )
    assert found["logistic"].scores["top1"] > 0.7
    assert found["linear_fast"].scores["top1"] == pytest.approx(found["logistic"].scores["top1"], abs=0.05)
    few = found["few_label"].scores
    assert few["top1_1_labels"] < few["top1_10_labels"] < few["top1_50_labels"]

    # A second command takes the features as they are; after another training of that name it would not.
    times = {path: path.stat().st_mtime_ns for path in (run / "features").iterdir()}
    assert evaluate.main(["--run", str(run), "--protocol", "knn", "-o", "Global.checkpoint=latest"]) == 0
    assert capsys.readouterr().out.count("computed before") == 2
    assert {path: path.stat().st_mtime_ns for path in (run / "features").iterdir()} == times
    for path in (run / "features").glob("*.json"):
        path.write_text(path.read_text().replace('"layer": "backbone"', '"layer": "projector"'))
    assert evaluate.main(["--run", str(run), "-o", "Global.checkpoint=latest"]) == 0
    assert "computed before" not in capsys.readouterr().out
    again = scorecard.read(run)
    assert [entry.protocol for entry in again[5:]] == ["knn", "knn"]
    assert again[5].scores == again[6].scores == again[0].scores
    assert len((run / "scorecard.md").read_text().splitlines()) == 4 + 5

    for layer in ("projector", "predictor"):
        assert evaluate.main(["--run", str(run), "--layer", layer, "-o", "Global.checkpoint=latest"]) == 0
        assert kept_features(run)[layer, 1433].shape == (1433, 32)
    capsys.readouterr()

    # A training image is its own nearest neighbour, and is of its class.
    image = Digits("train").images[7]
    cv2.imwrite(str(tmp_path / "seven.png"), image)
    assert evaluate.main(["--run", str(run), "--neighbours", str(tmp_path / "seven.png")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r" {4}[01]\.\d{4}  ", line)]
    assert len(lines) == 10
    assert lines[0] == f"    1.0000  Digits[7]  {labels[7]}"

    # Where features cannot be kept, the score is the same.
    shutil.rmtree(run / "features")
    (run / "features").write_text("a file in the way")
    assert evaluate.main(["--run", str(run), "-o", "Global.checkpoint=latest"]) == 0
    said = capsys.readouterr().out
    assert "features are not kept in" in said
    assert f"kNN top-1 {last:.4f} (k=5" in said

    for arguments, words in (
        (["--run", str(run), "--protocol", "knm"], "unknown protocol 'knm'; did you mean 'knn'?"),
        (["--run", str(tmp_path)], "is no run's folder"),
        ([], "give a run by --run RUN, or a recipe by -c FILE"),
        (["--run", str(run), "--neighbours", "nowhere.png"], "nowhere.png cannot be read"),
        (["--run", str(run), "-o", "DataLoader.Eval=null"], "nothing to score: the recipe has no DataLoader.Eval"),
        (["--run", str(run), "--out", "x.md"], "--compare"),
    ):
        assert evaluate.main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_transfer_to_other_images(
    pretrain: Run, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pretrained on digits, probed on squares and stripes of unequal classes; both runs' scorecards know of it."""
    pretrained = pretrain("pretrained", "Evaluation.knn=null")
    rng = np.random.default_rng(0)
    for split, counts in (("train", (30, 10)), ("val", (20, 5))):
        for name, count in zip(("square", "stripes"), counts, strict=True):
            folder = tmp_path / "other" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 60, (16, 16, 3), np.uint8)
                if name == "square":
                    image[4:12, 4:12] = 200
                else:
                    image[::2] = 200
                cv2.imwrite(str(folder / f"{i}.png"), image)
    run = tmp_path / "probe"
    overrides = ["DataLoader.Train.sampler.batch_size=8", "DataLoader.Train.dataset.transform.size=16"]
    overrides += ["DataLoader.Eval.dataset.transform.size=16", "DataLoader.Train.loader.num_workers=0"]
    overrides += [f"DataLoader.Train.dataset.root={tmp_path}/other", f"Global.pretrained_model={pretrained}"]
    overrides += [
        f"Global.output_dir={run}",
        *TINY,
        "Global.epochs=6",
        "LRScheduler.learning_rate=10",
        "DataLoader.Eval.loader.num_workers=0",
    ]
    recipe = root / "configs/simsiam_r18_lp_transfer.yaml"
    assert train_command.main(["-c", str(recipe), "-o", *overrides]) == 0

    last = [r for r in read_metrics(run / "metrics.jsonl") if "eval/mean_per_class" in r][-1]
    (own,), (theirs,) = scorecard.read(run), scorecard.read(pretrained)
    assert own.protocol == theirs.protocol == "linear_probe"
    assert own.scores["mean_per_class"] == last["eval/mean_per_class"]
    assert own.scores["top1"] == last["eval/top1"] > 0.85
    assert own.settings["queries"] == 25
    assert own.settings["augmentation"].startswith("RandomResizedCropFlip(size=16")
    assert "checkpoints" in own.checkpoint["path"]
    assert str(run) in own.checkpoint["path"]
    assert str(pretrained) in theirs.checkpoint["path"]
    assert theirs.settings["run"] == str(run)

    capsys.readouterr()
    assert evaluate.main(["--run", str(run), "-o", "Global.checkpoint=latest"]) == 0
    assert f"linear probe top-1 {last['eval/top1']:.4f} (layer=backbone, frozen" in capsys.readouterr().out
    assert len(scorecard.read(run)) == 2


def test_a_score_that_guessing_reaches_is_told(tmp_path: Path) -> None:
    chance = chance_level(np.arange(1000) % 10)
    with RunLog(tmp_path) as log:
        entries.warn_at_chance(log, "kNN top-1", 0.12, chance)
        entries.warn_at_chance(log, "a better one", 0.14, chance)
    text = (tmp_path / "log.txt").read_text()
    assert "kNN top-1 0.1200 cannot be told from guessing: naming the most frequent class scores 0.1000" in text
    assert "collapsed" in text
    assert "a better one" not in text
