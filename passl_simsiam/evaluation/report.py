"""report/: what a run was, what came out and how to read it, in plain words, with pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.evaluation import few_label, pictures
from passl_simsiam.evaluation.document import Document, Facts, Part, Picture, Section, Table, Text, write

Array = np.ndarray[Any, Any]

TRAINING = "How training went"  # the section of the curves
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
        pictures: of the features, with captions.
        measures: what records hold of the representation's health, by key, and what each means.
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
    pictures: Sequence[Picture] = ()
    measures: Mapping[str, str] = field(default_factory=dict)


def document(report: Report) -> Document:
    """The report in words, tables and pictures."""
    sections = [
        Section("What was trained", [Facts(_trained(report))]),
        *(Section(f"{s.name}: {100 * s.value:.1f} %", _score(report, s)) for s in report.scores),
        Section("With few labels", _few_labels(report)),
        Section(TRAINING, _training(report)),
        Section("Health", _health(report)),
        Section("What it learned from", _views(report)),
        Section("What the features look like", report.pictures),
    ]
    return Document(report.title, [s for s in sections if s.parts], _summary(report), _headline(report))


def write_report(folder: Path, report: Report) -> Path:
    """Write report.md, report.json and the PNG pictures into `folder`; return report.md's path. Raises OSError."""
    return write(folder, document(report))


def knn_baselines(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The baselines of the kNN score that were recorded before the first step, those there are."""
    start = [record for record in records if record.get("step") == 0]
    keys = {"raw pixels": "eval/raw_pixels_knn_top1", "random weights": "eval/knn_top1"}
    return {name: r[key] for name, key in keys.items() for r in start if r.get(key) is not None}


def _trained(report: Report) -> dict[str, str]:
    facts = dict(report.trained)
    for name, key in (("epochs", "epoch"), ("steps", "step"), ("images seen", "train/images")):
        values = [record[key] for record in report.records if record.get(key) is not None]
        if values:
            facts.setdefault(name, f"{max(values):,}")
    return facts


def _summary(report: Report) -> str:
    """What came out, in a few sentences."""
    words = [_verdict(score, briefly=True) for score in report.scores]
    _, std = pictures.series(report.records, "health/std")
    if report.embedding_dim and len(std):
        share, verdict = _spread_verdict(report.records, report.embedding_dim)
        words.append(f"The embeddings spread over {100 * share:.0f} % of what even directions would: {verdict}.")
    return " ".join(words)


def _headline(report: Report) -> list[tuple[str, str, str]]:
    items = []
    for score in report.scores:
        against = [f"{name} {100 * value:.1f} %" for name, value in _levels(score).items()]
        items.append((score.name, f"{100 * score.value:.1f} %", ", ".join(against)))
    _, std = pictures.series(report.records, "health/std")
    if report.embedding_dim and len(std):
        share, verdict = _spread_verdict(report.records, report.embedding_dim)
        items.append(("spread of z/|z|", f"{100 * share:.0f} %", f"of evenly spread directions: {verdict}"))
    return items


def _levels(score: Score) -> dict[str, float]:
    """What a score is to be compared with."""
    return {**score.baselines, **({} if score.chance is None else {"chance": score.chance})}


def _score(report: Report, score: Score) -> list[Part]:
    levels = _levels(score)
    rows = {"**this run**": score.value, **levels}
    figure = pictures.accuracy_curve(report.records, score.key, score.name, levels)
    name = score.key.rsplit("/", 1)[-1]
    return [
        Table(["", f"{score.name} (%)"], [[name, f"{100 * value:.1f}"] for name, value in rows.items()]),
        Text(_verdict(score)),
        Text(f"Protocol: {score.protocol}."),
        *_picture(figure, name, f"{score.name} after each epoch."),
    ]


def _verdict(score: Score, briefly: bool = False) -> str:
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
        if gain <= 0 and not briefly:
            words.append(
                "On small, centred images that is a strong baseline when every training image has a label; "
                "what the features are worth with few labels is another question."
            )
    return " ".join(words)


def _few_labels(report: Report) -> list[Part]:
    if not report.few_label:
        return []
    names = list(report.few_label[0].accuracies)
    draws = len(next(iter(report.few_label[0].accuracies.values())))
    split = f", {report.few_label_split}" if report.few_label_split else ""
    return [
        Text(
            f"Top-1 (%), mean ± standard deviation over {draws} random choices of the labelled images; all columns use "
            "the same choices."
        ),
        Table(
            ["labels a class", *names],
            [[str(row.shots), *(_spread(row.accuracies[name]) for name in names)] for row in report.few_label],
        ),
        Text(f"Protocol: {few_label.PROTOCOL}{split}."),
    ]


def _spread(accuracies: Array) -> str:
    return f"{100 * accuracies.mean():.1f} ± {100 * accuracies.std():.1f}"


def _training(report: Report) -> list[Part]:
    records, dim = report.records, report.embedding_dim
    return [
        *_picture(pictures.loss_curve(records), "loss", _LOSS_MEANING.get(report.loss, "")),
        *_picture(pictures.std_curve(records, dim), "std", _std_caption(records, dim)),
        *_picture(
            pictures.rank_curve(records),
            "rank",
            "How many directions the backbone's features use (entropy of their singular values). Near 1 is a collapse.",
        ),
        *_picture(pictures.rate_curves(records), "learning_rate", "What the optimizer used at each step."),
    ]


def _health(report: Report) -> list[Part]:
    """Each measure where the run ended, and what it means."""
    rows = []
    for key, meaning in report.measures.items():
        _, values = pictures.series(report.records, key)
        if len(values):
            rows.append([key.removeprefix("health/").replace("_", " "), f"{values[-1]:.4g}", meaning])
    return [Table(["measure", "at the end", "what it means"], rows, words=True)] if rows else []


def _std_caption(records: Sequence[Mapping[str, Any]], dim: int | None) -> str:
    _, std = pictures.series(records, "health/std")
    caption = "Standard deviation of each channel of z/|z|, averaged. 0 means that all images look alike: a collapse."
    if not dim or not len(std):
        return caption
    share, verdict = _spread_verdict(records, dim)
    return (
        f"{caption} Evenly spread directions give 1/√{dim} = {1 / math.sqrt(dim):.4f}; this run ended at "
        f"{std[-1]:.4f}, {share:.0%} of that: {verdict}."
    )


def _spread_verdict(records: Sequence[Mapping[str, Any]], dim: int) -> tuple[float, str]:
    """The last spread of z/|z| as a share of that of even directions, and what it means beside the rank of z.

    Behind batch norm a collapsed z keeps some spread: a few images of each batch then point the other way.
    """
    _, std = pictures.series(records, "health/std")
    _, rank = pictures.series(records, "health/rank_z")
    share = float(std[-1]) * math.sqrt(dim)
    if share <= 0.1 or (len(rank) and rank[-1] < 3):
        return share, "a collapse" + ("" if share <= 0.1 else f", for z uses only {rank[-1]:.1f} directions")
    return share, "no sign of a collapse" if share > 0.3 else "a partial collapse"


def _views(report: Report) -> list[Part]:
    if not report.views:
        return []
    return _picture(
        pictures.view_grid(report.views),
        "views",
        "Pairs of views of the same image, as the network saw them. It must call the two alike; a person should still "
        "recognise them as one image.",
    )


def _picture(image: Any, name: str, caption: str) -> list[Part]:
    """A picture, if there is one."""
    return [] if image is None else [Picture(f"{name}.png", caption, image)]
