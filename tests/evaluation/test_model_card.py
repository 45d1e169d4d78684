"""The model card: its numbers are the run's, its limits follow from them, and the user's words stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from passl_simsiam.evaluation.model_card import CARD, Facts, limits, model_card, write_model_card
from passl_simsiam.evaluation.scorecard import Entry

CLASSES = [f"kind {k}" for k in range(10)]


def facts(**changes: Any) -> Facts:
    config = {
        "Global": {"task": "pretrain", "epochs": 80, "seed": 3},
        "Model": {
            "name": "SimSiam",
            "backbone": {"name": "ResNet18", "width": 8, "stem": "cifar"},
            "neck": {"name": "SimSiamProjector", "layers": 3},
            "head": None,
        },
        "Loss": {"name": "NegativeCosine"},
        "Optimizer": {"name": "Momentum", "momentum": 0.9, "groups": None},
        "LRScheduler": {"name": "Cosine", "learning_rate": 0.03, "reference_batch": 256},
        "DataLoader": {
            "Train": {
                "dataset": {"name": "Digits", "split": "train", "transform": {"name": "DigitsViews", "size": 16}},
                "sampler": {"batch_size": 64},
            },
            "Eval": {"dataset": {"name": "Digits", "split": "val", "transform": {"name": "Resize", "size": 16}}},
        },
        "Evaluation": {"knn": {"k": 5, "temperature": 0.1}},
    }
    state = {
        "step": 1760,
        "epoch": 80,
        "images": 112_640,
        "metrics": {"eval/knn_top1": 0.45},
        "best": 0.45,
        "best_by": "eval/knn_top1",
        "data": {"in_channels": 3, "mean": [0.3, 0.3, 0.3], "std": [0.4, 0.4, 0.4], "classes": CLASSES},
    }
    records = [
        {"step": 0, "epoch": 0, "eval/knn_top1": 0.25, "eval/raw_pixels_knn_top1": 0.5},
        {"step": 1760, "epoch": 80, "eval/knn_top1": 0.45},
    ]
    state |= changes.pop("state", {})
    for key, value in changes.pop("config", {}).items():
        section, name = key.split(".")
        config[section][name] = value
    plain = {"name": "output/run", "config": config, "state": state, "checkpoint": ("epoch_0080", "ab" * 32)}
    return Facts(**{**plain, "records": records, **changes})


ENTRY = Entry(
    protocol="retrieval",
    scores={"precision_at_5": 0.8125},
    settings={"metric": "cosine"},
    checkpoint={"path": "x", "step": 1760, "epoch": 80, "sha256": "cd" * 32},
    data="Digits(val)",
    seconds=1.0,
    when="2030-01-01T00:00:00Z",
    version="v",
)


def test_the_card_tells_data_recipe_scores_and_use() -> None:
    card = model_card(facts(entries=[ENTRY]))
    for words in (
        "# SimSiam ResNet18, pretrained without labels",
        "backbone = passl_simsiam.load_backbone('output/run')",
        "passl-export output/run exported --raw",
        "Resize(size=16), mean (0.3, 0.3, 0.3), std (0.4, 0.4, 0.4)",
        "- images: Digits(split=train)",
        "- about 1,408 of them an epoch, views by DigitsViews(size=16)",
        "- 10 classes, not used for training: kind 0, ",
        "- backbone: ResNet18(width=8, stem=cifar)",
        "- optimizer Momentum(momentum=0.9)",
        "- learning rate 0.03 x 64 / 256, Cosine; batch 64",
        "- 80 of 80 epochs, 1,760 steps, seed 3, 1 process(es)",
        f"`checkpoints/epoch_0080`, whose model.safetensors has sha256 `{'ab' * 32}`",
        "| kNN top-1 | 45.00 | k=5, T=0.1, cosine, backbone features, images of Digits(split=val), Resize(size=16) |",
        "| the same, random weights | 25.00 |",
        "| the same, raw pixels | 50.00 |",
        "| guessing, top-1 | 10.00 | 10 classes |",
        "precision at 5 81.25",
    ):
        assert words in card
    assert "passl-predict" not in card


def test_the_scores_are_those_of_the_checkpoint() -> None:
    """The best epoch's, not the last one's."""
    later = [*facts().records, {"step": 1800, "epoch": 81, "eval/knn_top1": 0.11}]
    card = model_card(facts(records=later))
    assert "| kNN top-1 | 45.00 |" in card
    assert "11.00" not in card


def said(words: str, **changes: Any) -> bool:
    return any(words in limit for limit in limits(facts(**changes)))


def test_limits_follow_from_the_run() -> None:
    assert said("Wrong for 55 of 100 images (eval/knn_top1); 4.5 times what guessing among 10 classes gives.")
    assert said("hardly more than what guessing", state={"metrics": {"eval/knn_top1": 0.12}})
    assert said("No score was taken", state={"metrics": {}})
    assert said("no better than raw pixels: 45.0 against 50.0 %")
    assert not said("no better than random weights")
    assert said("no better than random weights", state={"metrics": {"eval/knn_top1": 0.2}})
    assert said("about 1,408 images, 910 times fewer than ImageNet")
    assert not said("fewer than ImageNet", state={"images": 80 * 1_281_000})
    assert said("16 x 16 pixels only")
    assert said("80 epochs where published runs take 100 and more, width 8 where the published backbone has 64")
    assert not said("Unfinished")
    assert said("Unfinished: 7 of the recipe's 80 epochs", state={"epoch": 7})
    assert said("chosen by eval/knn_top1 on the images that it is scored on")
    assert not said("was chosen by", state={"best": None})
    assert said("One run with seed 3")


def test_a_full_recipe_is_not_called_reduced() -> None:
    full = {"Global.epochs": 100, "Model.backbone": {"name": "ResNet50"}}
    assert not said("reduced recipe", config=full, state={"epoch": 100})


def test_a_classifier() -> None:
    probe = {
        "Global.task": "linear_probe",
        "Global.pretrained_model": "output/pre",
        "Model.name": "Classifier",
        "Model.head": {"name": "LinearClassifier"},
    }
    card = model_card(facts(config=probe, state={"metrics": {"eval/top1": 0.9, "eval/top5": 0.99}}))
    for words in (
        "# Classifier ResNet18, linear probe",
        "passl-predict output/run photos/ predictions.csv",
        "- backbone weights from output/pre, frozen",
        "- 10 classes, trained on: kind 0",
        "| top-1 | 90.00 | images of Digits(split=val), Resize(size=16) |",
        "| top-5 | 99.00 |",
        "Wrong for 10 of 100 images (eval/top1); 9.0 times what guessing",
    ):
        assert words in card


def test_without_labels_or_evaluation() -> None:
    bare = {"DataLoader.Eval": None, "Evaluation.knn": None}
    known = {**facts().state["data"], "classes": None}
    card = model_card(facts(config=bare, state={"metrics": {}, "data": known}, records=[]))
    assert "- no labels" in card
    assert "of unknown quality" in card
    assert "guessing" not in card


def test_what_the_user_wrote_stays(tmp_path: Path) -> None:
    path = write_model_card(tmp_path, facts())
    assert path == tmp_path / CARD
    first = path.read_text()
    assert first.count("## Licence") == 1
    assert "Not stated yet" in first
    path.write_text(first.replace(first.partition("## Licence\n")[2], "\nCC BY 4.0, by me.\n"))
    write_model_card(tmp_path, replace(facts(), entries=[ENTRY]))
    again = path.read_text()
    assert again.endswith("## Licence\n\nCC BY 4.0, by me.\n")
    assert "precision at 5" in again
    write_model_card(tmp_path, replace(facts(), entries=[ENTRY]))
    assert path.read_text() == again
    assert [p.name for p in tmp_path.iterdir()] == [CARD]


def test_a_readme_of_the_users_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("# My notes\n")
    assert write_model_card(tmp_path, facts()) is None
    assert (tmp_path / CARD).read_text() == "# My notes\n"
