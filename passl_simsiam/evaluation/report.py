"""report/: what a run was, what came out and how to read it, in plain words, with pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.evaluation import few_label, pictures

Array = np.ndarray[Any, Any]

_LOSS_MEANING = {
    "NegativeCosine": "The negative cosine starts near 0 and cannot fall below -1. It says little alone: a good run "
    "ends at about -0.9, a collapsed one at -1. Read it together with the spread of the embeddings.",
    "NTXent": "The contrastive loss (cross-entropy of finding the other view among the batch): lower is better, and "
    "its level depends on the batch size and the temperature.",
    "CrossEntropy": "Cross-entropy on the training images: how sure the classifier is of the right class.",
}


@dataclass(frozen=True)
class Score:
    """An accuracy with what it means.

    Attributes:
        name: "kNN top-1".
        key: its key in the records, "eval/knn_top1".
        value: a fraction of 1.
        protocol: all that the score depends on, in one line.
        baselines: what the same protocol gives elsewhere ("raw pixels", "random weights"), fractions of 1.
        classes: how many there are, for the chance level.
        k: guesses that count, of `classes`: 5 for a top-5 accuracy.
    """

    name: str
    key: str
    value: float
    protocol: str
    baselines: Mapping[str, float] = field(default_factory=dict)
    classes: int | None = None
    k: int = 1

    @property
    def chance(self) -> float | None:
        """What guessing gives, a fraction of 1."""
        return min(1.0, self.k / self.classes) if self.classes else None


@dataclass(frozen=True)
class Report:
    """What a report is made from.

    Attributes:
        title: a line.
        trained: what was trained, by plain names ("data", "model", "batch", ...).
        records: of metrics.jsonl.
        scores: of the finished run.
        few_label: the table of few labels, if it was made.
        few_label_split: what its classifiers were trained and tested on.
        views: the views of some images, uint8 [n, H, W, C] each, if there are two or more of an image.
        embedding_dim: channels of z, if z was trained.
        loss: the loss's class name.
    """

    title: str
    trained: Mapping[str, str]
    records: Sequence[Mapping[str, Any]]
    scores: Sequence[Score] = ()
    few_label: Sequence[few_label.FewLabelRow] = ()
    few_label_split: str = ""
    views: Sequence[Array] = ()
    embedding_dim: int | None = None
    loss: str = "NegativeCosine"


def write_report(folder: Path, report: Report) -> Path:
    """Write report.md and the PNG pictures that it shows into `folder`; return report.md's path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [
        f"# {report.title}\n",
        _what_was_trained(report),
        *(_score(folder, report, score) for score in report.scores),
        _few_labels(report),
        _training(folder, report),
        _views(folder, report),
    ]
    path = folder / "report.md"
    path.write_text("\n".join(section for section in sections if section), encoding="utf-8")
    return path


def knn_baselines(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The baselines of the kNN score that were recorded before the first step, those there are."""
    start = [record for record in records if record.get("step") == 0]
    keys = {"raw pixels": "eval/raw_pixels_knn_top1", "random weights": "eval/knn_top1"}
    return {name: r[key] for name, key in keys.items() for r in start if r.get(key) is not None}


def _what_was_trained(report: Report) -> str:
    facts = dict(report.trained)
    for name, key in (("epochs", "epoch"), ("steps", "step"), ("images seen", "train/images")):
        values = [record[key] for record in report.records if record.get(key) is not None]
        if values:
            facts.setdefault(name, f"{max(values):,}")
    return "## What was trained\n\n" + "".join(f"- {name}: {value}\n" for name, value in facts.items())


def _score(folder: Path, report: Report, score: Score) -> str:
    levels = dict(score.baselines)
    if score.chance is not None:
        levels["chance"] = score.chance
    rows = {"**this run**": score.value, **levels}
    table = f"| | {score.name} (%) |\n|---|---:|\n" + "".join(f"| {k} | {100 * v:.1f} |\n" for k, v in rows.items())
    figure = pictures.accuracy_curve(report.records, score.key, score.name, levels)
    picture = _save(folder, figure, score.key.rsplit("/", 1)[-1], f"{score.name} after each epoch.")
    head = f"## {score.name}: {100 * score.value:.1f} %\n"
    return f"{head}\n{table}\n{_verdict(score)}\n\nProtocol: {score.protocol}.\n{picture}"


def _verdict(score: Score) -> str:
    """The comparison in words. Points are percentage points."""
    found = "comes out" if score.k == 1 else f"is among the best {score.k}"
    words = [f"The right class {found} for {100 * score.value:.0f} of 100 test images."]
    random = score.baselines.get("random weights")
    pixels = score.baselines.get("raw pixels")
    if score.chance is not None and score.value < min(1.5 * score.chance, (1 + score.chance) / 2):
        words.append(
            "That is close to guessing: look at the spread of the embeddings below (a collapse), at the learning rate, "
            "and at whether the labels of the two splits mean the same."
        )
    if random is not None:
        gain = 100 * (score.value - random)
        effect = f"added {gain:.1f} points" if gain > 0 else f"has not helped ({gain:.1f} points)"
        words.append(f"The same network with random weights gives {100 * random:.1f} %: training {effect}.")
    if pixels is not None:
        gain = 100 * (score.value - pixels)
        words.append(
            f"Comparing the images pixel by pixel gives {100 * pixels:.1f} %, "
            f"{abs(gain):.1f} points {'less' if gain > 0 else 'more'}."
        )
        if gain <= 0:
            words.append(
                "On small, centred images that is a strong baseline when every training image has a label; "
                "what the features are worth with few labels is another question."
            )
    return " ".join(words)


def _few_labels(report: Report) -> str:
    if not report.few_label:
        return ""
    names = list(report.few_label[0].accuracies)
    head = f"| labels a class | {' | '.join(names)} |\n|---:|{'---:|' * len(names)}\n"
    body = "".join(
        f"| {row.shots} | " + " | ".join(_spread(row.accuracies[name]) for name in names) + " |\n"
        for row in report.few_label
    )
    draws = len(next(iter(report.few_label[0].accuracies.values())))
    split = f", {report.few_label_split}" if report.few_label_split else ""
    return (
        f"## With few labels\n\nTop-1 (%), mean ± standard deviation over {draws} random choices of the labelled "
        f"images; all columns use the same choices.\n\n{head}{body}\n"
        f"Protocol: {few_label.PROTOCOL}{split}.\n"
    )


def _spread(accuracies: Array) -> str:
    return f"{100 * accuracies.mean():.1f} ± {100 * accuracies.std():.1f}"


def _training(folder: Path, report: Report) -> str:
    records, dim = report.records, report.embedding_dim
    parts = [
        _save(folder, pictures.loss_curve(records), "loss", _LOSS_MEANING.get(report.loss, "")),
        _save(folder, pictures.std_curve(records, dim), "std", _std_caption(records, dim)),
        _save(
            folder,
            pictures.rank_curve(records),
            "rank",
            "How many directions the backbone's features use (entropy of their singular values). Near 1 is a collapse.",
        ),
        _save(folder, pictures.rate_curves(records), "learning_rate", "What the optimizer used at each step."),
    ]
    text = "".join(parts)
    return f"## How training went\n{text}" if text else ""


def _std_caption(records: Sequence[Mapping[str, Any]], dim: int | None) -> str:
    _, std = pictures.series(records, "health/std")
    caption = "Standard deviation of each channel of z/|z|, averaged. 0 means that all images look alike: a collapse."
    if not dim or not len(std):
        return caption
    even = 1 / math.sqrt(dim)
    share = std[-1] / even
    verdict = "no sign of a collapse" if share > 0.3 else "a partial collapse" if share > 0.1 else "a collapse"
    return (
        f"{caption} Evenly spread directions give 1/√{dim} = {even:.4f}; this run ended at {std[-1]:.4f}, "
        f"{share:.0%} of that: {verdict}."
    )


def _views(folder: Path, report: Report) -> str:
    if not report.views:
        return ""
    pictures.save_image(pictures.view_grid(report.views), folder / "views.png")
    return (
        "## What it learned from\n\n![views](views.png)\n\nPairs of views of the same image, as the network saw them. "
        "It must call the two alike; a person should still recognise them as one image.\n"
    )


def _save(folder: Path, figure: Any, name: str, caption: str) -> str:
    """Save a figure, if there is one, and return its place in the text."""
    if figure is None:
        return ""
    figure.savefig(folder / f"{name}.png")
    return f"\n![{name}]({name}.png)\n\n{caption}\n"
