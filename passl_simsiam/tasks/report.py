"""The pictures and the words that a run ends with, gathered from what the task knows."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from passl_simsiam import __version__, build
from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.durable import digest
from passl_simsiam.engine.health import METRICS
from passl_simsiam.evaluation import pictures
from passl_simsiam.evaluation.few_label import FewLabelRow, few_label_table
from passl_simsiam.evaluation.report import Report, Score, knn_baselines, write_report
from passl_simsiam.log import read_metrics
from passl_simsiam.tasks.card import update_card
from passl_simsiam.tasks.features import words
from passl_simsiam.tasks.html_report import write_html
from passl_simsiam.tasks.monitor import KnnMonitor
from passl_simsiam.tasks.pictures import confusion, feature_pictures
from passl_simsiam.tasks.session import Data, Session

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


def report_pretraining(session: Session, model: paddle.nn.Layer, data: Data, monitor: KnnMonitor | None) -> None:
    """report/ of a pretraining run, with the few-label table if the recipe asks for it. All ranks may call it.

    Args:
        data: the training images with their views.
    """
    if not session.world.is_main and not (monitor and session.config.Evaluation.few_label):
        return
    table = _few_labels(session, monitor) if monitor and session.config.Evaluation.few_label else []
    if not session.world.is_main:
        return
    records = read_metrics(session.folder / "metrics.jsonl")
    scores = []
    final = _final(records, "eval/knn_top1")
    if monitor and final is not None:
        classes, baselines = monitor.bank.dataset.classes, knn_baselines(records)
        count = len(classes) if classes else None
        scores.append(Score("kNN top-1", "eval/knn_top1", final, monitor.protocol, baselines, count))
    pictures_of_features = []
    if session.config.Evaluation.pictures:
        shown = monitor.queries if monitor else None
        pictures_of_features = feature_pictures(model, data, shown, session.log, _last_step(records))
    neck = getattr(model, "neck", None)
    report = Report(
        title=f"{session.config.Model.name} pretraining on {session.config.DataLoader.Train.dataset.name}",
        trained=_facts(session, model, data),
        records=records,
        scores=scores,
        few_label=table,
        few_label_split="labels from the training images, scored on those of DataLoader.Eval" if table else "",
        views=sample_views(session, data) if data.dataset.in_channels in (1, 3) else (),
        embedding_dim=neck.out_channels if neck is not None else None,
        loss=session.config.Loss.name,
        pictures=pictures_of_features,
        measures=METRICS,
    )
    _write(session, report)


def report_classification(session: Session, model: paddle.nn.Layer, data: Data, validation: Validation) -> None:
    """report/ of a linear probe or a fine-tuning.

    Args:
        data: the training images with their view.
        validation: after it has scored the model.
    """
    if not session.world.is_main:
        return
    records = read_metrics(session.folder / "metrics.jsonl")
    classes = data.dataset.classes or []
    found = {k: _final(records, f"eval/top{k}") for k in (1, 5) if k < len(classes)}
    scores = [
        Score(f"top-{k}", f"eval/top{k}", value, validation.protocol, {}, len(classes), k)
        for k, value in found.items()
        if value is not None
    ]
    shown = []
    if session.config.Evaluation.pictures:
        step = _last_step(records)
        if validation.last:
            shown.append(confusion(*validation.last, classes, session.log, step))
        shown += feature_pictures(model, data, validation.data, session.log, step)
    kind = "Linear probe" if session.config.Global.task == "linear_probe" else "Fine-tuning"
    report = Report(
        title=f"{kind} on {session.config.DataLoader.Train.dataset.name}",
        trained=_facts(session, model, data),
        records=records,
        scores=scores,
        loss=session.config.Loss.name,
        pictures=shown,
    )
    _write(session, report)


def _final(records: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The value that a run ended with; what was measured before the first step does not count."""
    return next((r[key] for r in reversed(records) if r.get(key) is not None and r["step"] > 0), None)


def _last_step(records: Sequence[Mapping[str, Any]]) -> int:
    return int(records[-1]["step"]) if records else 0


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


def _facts(session: Session, model: paddle.nn.Layer, data: Data) -> dict[str, str]:
    config, backbone = session.config, model.backbone
    stem = getattr(backbone, "stem", None)
    source = config.Global.pretrained_model
    facts: dict[str, Any] = {
        "data": f"{words(config.DataLoader.Train.dataset)}, {len(data.dataset):,} images, "
        f"views by {config.DataLoader.Train.dataset.transform.name}",
        "model": f"{config.Model.name} with {config.Model.backbone.name}" + (f" ({stem} stem)" if stem else ""),
        "batch": f"{config.DataLoader.Train.sampler.batch_size} images",
        "learning rate": f"{build.base_rate(config):g}, {config.LRScheduler.name}",
        "seed": config.Global.seed,
    }
    if source:
        facts["backbone weights from"] = source
    latest = io.pointed(session.folder / io.FOLDER, "latest")
    if latest is not None and (latest / io.MODEL).is_file():
        facts["checkpoint"] = f"{latest.name}, sha256 {digest(latest / io.MODEL)}"
    facts["versions"] = (
        f"passl_simsiam {__version__}, PaddlePaddle {paddle.__version__}, Python {platform.python_version()}"
    )
    return {name: str(value) for name, value in facts.items()}


def _write(session: Session, report: Report) -> None:
    try:
        write_report(session.folder / "report", report)
        path = write_html(session.folder)
        session.log.info(f"report: {path} (and report.md beside it)")
    except OSError as error:
        session.log.warn(f"no report of this run: {error}")
    update_card(session.folder, session.log)
