"""The pictures and the words that a run ends with, gathered from what the task knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from passl_simsiam.engine.loop import TrainState
from passl_simsiam.evaluation import pictures
from passl_simsiam.evaluation.few_label import FewLabelRow, few_label_table
from passl_simsiam.evaluation.report import Report, Score, knn_baselines, write_report
from passl_simsiam.log import read_metrics
from passl_simsiam.tasks.monitor import KnnMonitor
from passl_simsiam.tasks.session import Data, Session
from passl_simsiam.tasks.training import Training

if TYPE_CHECKING:
    from passl_simsiam.tasks.classify import Validation

VIEWS_SHOWN = 24


def sample_views(session: Session, data: Data) -> list[np.ndarray]:
    """The views of the first images of the first epoch: for each view, uint8 [n, H, W, C].

    How many bad images are borne is for the training's own loader to judge.
    """
    from passl_simsiam.data.loader import Loader

    count = min(VIEWS_SHOWN, len(data.dataset))
    loader = Loader(
        data.dataset,
        data.transform,
        batch_size=count,
        shuffle=True,
        drop_last=True,
        seed=session.config.Global.seed,
        max_bad_fraction=1.0,
    )
    return next(iter(loader.epoch(0)))["views"]


def show_views(session: Session, data: Data) -> None:
    """Put a grid of view pairs into VisualDL: what the network is about to learn from."""
    if session.world.is_main and data.dataset.in_channels in (1, 3):
        session.log.image("views", pictures.view_grid(sample_views(session, data)), step=0)


def report_pretraining(session: Session, training: Training, monitor: KnnMonitor | None) -> None:
    """report/ of a pretraining run, with the few-label table if the recipe asks for it."""
    if not session.world.is_main and not (monitor and session.config.Evaluation.few_label):
        return
    records = read_metrics(session.folder / "metrics.jsonl") if session.world.is_main else []
    scores = []
    final = [r["eval/knn_top1"] for r in records if r.get("eval/knn_top1") is not None and r["step"] > 0]
    if monitor and final:
        classes = monitor.bank.dataset.classes
        scores.append(
            Score(
                "kNN top-1",
                "eval/knn_top1",
                final[-1],
                monitor.protocol,
                knn_baselines(records),
                len(classes) if classes else None,
            )
        )
    table = _few_labels(session, monitor) if monitor and session.config.Evaluation.few_label else []
    if not session.world.is_main:
        return
    data = training.data
    neck = getattr(training.learner.model, "neck", None)
    report = Report(
        title=f"{session.config.Model.name} pretraining",
        trained=_facts(session, training),
        records=records,
        scores=scores,
        few_label=table,
        few_label_split="labels from the training images, scored on those of DataLoader.Eval" if table else "",
        views=sample_views(session, data) if data.dataset.in_channels in (1, 3) else (),
        embedding_dim=neck.out_channels if neck is not None else None,
        loss=session.config.Loss.name,
    )
    _write(session, report)


def report_classification(session: Session, training: Training, validation: Validation, state: TrainState) -> None:
    """report/ of a linear probe or a fine-tuning."""
    if not session.world.is_main:
        return
    records = read_metrics(session.folder / "metrics.jsonl")
    classes = training.data.dataset.classes or []
    probing = session.config.Global.task == "linear_probe"
    scores = [
        Score(f"top-{k}", f"eval/top{k}", state.metrics[f"eval/top{k}"], validation.protocol, {}, len(classes), k)
        for k in (1, 5)
        if f"eval/top{k}" in state.metrics and k < len(classes)
    ]
    report = Report(
        title="Linear probe" if probing else "Fine-tuning",
        trained=_facts(session, training),
        records=records,
        scores=scores,
        loss=session.config.Loss.name,
    )
    _write(session, report)


def _few_labels(session: Session, monitor: KnnMonitor) -> list[FewLabelRow]:
    """The table, also said in the log. All ranks take part in the features; the classifiers are fitted on each."""
    node = session.config.Evaluation.few_label
    assert node is not None
    name = f"{session.config.Model.name} features"
    (bank, queries), (raw_bank, raw_queries) = monitor.features(), monitor.raw_pixels()
    rows = few_label_table(
        {name: (bank.features, queries.features), "raw pixels": (raw_bank.features, raw_queries.features)},
        bank.labels,
        queries.labels,
        shots=node.labels_per_class,
        draws=node.draws,
        seed=session.config.Global.seed,
    )
    for row in rows:
        values = ", ".join(f"{name} {100 * a.mean():.1f} ± {100 * a.std():.1f} %" for name, a in row.accuracies.items())
        session.log.info(f"linear classifier with {row.shots} label(s) a class: {values} ({node.draws} draws)")
    return rows


def _facts(session: Session, training: Training) -> dict[str, str]:
    config, backbone = session.config, training.learner.model.backbone
    stem = getattr(backbone, "stem", None)
    source = config.Global.pretrained_model
    facts: dict[str, Any] = {
        "data": f"{config.DataLoader.Train.dataset.name}, {len(training.data.dataset):,} images, "
        f"views by {config.DataLoader.Train.dataset.transform.name}",
        "model": f"{config.Model.name} with {config.Model.backbone.name}" + (f" ({stem} stem)" if stem else ""),
        "batch": f"{config.DataLoader.Train.sampler.batch_size} images",
        "learning rate": f"{training.schedule.base_rate:g}, {config.LRScheduler.name}",
        "seed": config.Global.seed,
    }
    if source:
        facts["backbone weights from"] = source
    return {name: str(value) for name, value in facts.items()}


def _write(session: Session, report: Report) -> None:
    try:
        path = write_report(session.folder / "report", report)
        session.log.info(f"report: {path}")
    except OSError as error:
        session.log.warn(f"no report of this run: {error}")
