"""The evaluation protocols on features: from features with labels to scores and the settings that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from passl_simsiam.config.schema import EvaluationSection, FewLabel
from passl_simsiam.distributed import World
from passl_simsiam.evaluation import probe
from passl_simsiam.evaluation.features import Features
from passl_simsiam.evaluation.few_label import few_label_table
from passl_simsiam.evaluation.knn import knn_predict
from passl_simsiam.evaluation.metrics import mean_per_class_accuracy, topk_accuracy
from passl_simsiam.evaluation.retrieval import precision_at

KS = (1, 5, 10, 20, 50, 100, 200)
SHOTS = (1, 5, 10, 50)


@dataclass(frozen=True)
class Material:
    """What every protocol works on, the same on all ranks.

    Attributes:
        bank: features of the labelled training images.
        queries: those of the images that are scored on.
        classes: their number.
        seed: of what is drawn.
        node: settings of kNN and of few labels.
        world: the ranks.
    """

    bank: Features
    queries: Features
    classes: int
    seed: int
    node: EvaluationSection
    world: World


@dataclass(frozen=True)
class Found:
    """Scores by name, fractions of 1, the most telling first; settings; notes that a reader must know."""

    scores: Mapping[str, float]
    settings: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)


def knn(m: Material) -> Found:
    """All ranks take part, each with a share of the bank."""
    k, temperature = (m.node.knn.k, m.node.knn.temperature) if m.node.knn else (200, 0.1)
    ks = [k, *(other for other in KS if other != k and other <= len(m.bank.labels))]
    rows = np.array_split(np.arange(len(m.bank.labels)), m.world.size)[m.world.rank]
    share = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
    found = knn_predict(
        m.bank.features[share],
        m.bank.labels[share],
        m.queries.features,
        ks=ks,
        temperature=temperature,
        num_classes=m.classes,
        rows=rows,
        world=m.world,
    )
    top1 = {k: float((classes == m.queries.labels).mean()) for k, classes in found.classes.items()}
    scores = {"top1": top1[k], "mean_per_class": mean_per_class_accuracy(found.classes[k], m.queries.labels)}
    scores |= {f"top1_k{other}": top1[other] for other in sorted(top1) if other != k}
    used = min(k, len(m.bank.labels))
    return Found(scores, {"k": used, "temperature": temperature, "metric": "cosine"}, found.notes)


def linear_fast(m: Material) -> Found:
    sweep = probe.linear_sweep(m.bank.features, m.bank.labels, m.queries.features, num_classes=m.classes, seed=m.seed)
    works, tried = sweep.working_rates, sweep.rates
    span = f"{works[0]:g} to {works[-1]:g}" if len(works) > 1 else f"{works[0]:g} alone"
    spread = f"{span} of {tried[0]:g} to {tried[-1]:g}"
    settings = {
        "optimizer": "SGD",
        "momentum": probe.MOMENTUM,
        "schedule": "cosine",
        "epochs": probe.EPOCHS,
        "batch": probe.batch_of(len(m.bank.labels)),
        "rate": sweep.rate,
        "weight_decay": sweep.decay,
        "chosen_of": len(tried) * len(sweep.decays),
        "chosen_on": f"{probe.HELD_OUT:.0%} of the training images",
        "features": "standardised",
        "augmentation": "none",
        "rates_within_a_point": spread,
    }
    notes = []
    if sweep.rate in (tried[0], tried[-1]):
        notes.append(f"the best learning rate, {sweep.rate:g}, is at the edge of those tried")
    return Found(_accuracies(sweep.scores, m.queries.labels), settings, notes)


def logistic(m: Material) -> Found:
    found = probe.logistic_regression(m.bank.features, m.bank.labels, m.queries.features, num_classes=m.classes)
    settings = {"optimizer": "L-BFGS", "C": 1.0, "iterations": found.iterations, "features": "standardised"}
    notes = [] if found.converged else [f"logistic regression stopped after {found.iterations} iterations, unconverged"]
    return Found(_accuracies(found.scores, m.queries.labels), settings | {"augmentation": "none"}, notes)


def few_label(m: Material) -> Found:
    node = m.node.few_label or FewLabel(draws=5)
    shots = sorted({*SHOTS, *node.labels_per_class})
    rows = few_label_table(
        {"features": (m.bank.features, m.queries.features)},
        m.bank.labels,
        m.queries.labels,
        shots=shots,
        draws=node.draws,
        seed=m.seed,
    )
    scores: dict[str, float] = {}
    for row in rows:
        top1 = row.accuracies["features"]
        scores[f"top1_{row.shots}_labels"] = float(top1.mean())
        scores[f"std_{row.shots}_labels"] = float(top1.std())
    missing = [str(shot) for shot in shots if shot not in {row.shots for row in rows}]
    notes = (
        [f"no class may lack labels: {', '.join(missing)} a class are more than the smallest has"] if missing else []
    )
    settings = {"classifier": "logistic regression", "C": 1.0, "labels": "a class", "draws": node.draws}
    return Found(scores, settings | {"features": "standardised", "scores": "mean and std over draws"}, notes)


def retrieval(m: Material) -> Found:
    found = precision_at(m.bank.features, m.bank.labels, m.queries.features, m.queries.labels)
    scores = {f"precision_at_{k}": value for k, value in found.items()}
    return Found(scores, {"metric": "cosine", "neighbours": "in the bank"})


PROTOCOLS: dict[str, Callable[[Material], Found]] = {
    function.__name__: function for function in (knn, linear_fast, logistic, few_label, retrieval)
}


def _accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    found = {"top1": topk_accuracy(scores, labels, 1)}
    if scores.shape[1] > 5:
        found["top5"] = topk_accuracy(scores, labels, 5)
    return found | {"mean_per_class": mean_per_class_accuracy(scores.argmax(axis=1), labels)}
