"""Tasks with labels on a pretrained backbone: the linear probe, which trains a classifier only, and fine-tuning."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import paddle

from passl_simsiam import build
from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.weights import apply_weights
from passl_simsiam.engine.callbacks import EpochReport
from passl_simsiam.engine.loop import Callback, TrainState
from passl_simsiam.errors import UserError
from passl_simsiam.evaluation.metrics import chance_level, mean_per_class_accuracy, topk_accuracy
from passl_simsiam.evaluation.scorecard import Entry
from passl_simsiam.models.normalize import Normalize
from passl_simsiam.tasks import entries
from passl_simsiam.tasks.entries import Subject
from passl_simsiam.tasks.features import splits, words
from passl_simsiam.tasks.preflight import check_training, require
from passl_simsiam.tasks.report import report_classification
from passl_simsiam.tasks.session import Data, Session, checkpoint_to_score, open_data
from passl_simsiam.tasks.training import Training, loss_of

SCORES = ("eval/top1", "eval/top5", "eval/mean_per_class")


class Classification:
    """The learner: logits and cross-entropy of the first view.

    Args:
        frozen: the backbone neither trains nor updates its batch-norm statistics (the linear probe).
    """

    def __init__(
        self, model: paddle.nn.Layer, loss: Callable[..., paddle.Tensor], normalize: Normalize, frozen: bool
    ) -> None:
        self.model, self._loss, self._normalize, self._frozen = model, loss, normalize, frozen
        self.forward: Callable[..., Any] = model
        if frozen:
            for parameter in model.backbone.parameters():
                parameter.stop_gradient = True

    def train(self) -> None:
        self.model.train()
        if self._frozen:
            self.model.backbone.eval()

    def loss(self, views: list[paddle.Tensor], labels: paddle.Tensor) -> tuple[paddle.Tensor, dict[str, Any]]:
        outputs = {"logits": self.forward(self._normalize(views[0])), "labels": labels}
        return loss_of(self._loss, outputs, self.model), outputs


class Validation(Callback):
    """Top-1, top-5 and mean-per-class accuracy on the images of DataLoader.Eval every so many epochs.

    Attributes:
        last: the predictions and the labels of the last time, int64 [n] each.
    """

    def __init__(self, session: Session, model: paddle.nn.Layer, data: Data) -> None:
        self._session, self._model, self.data = session, model, data
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def protocol(self) -> str:
        node = self.data.dataset
        transform = self._session.config.DataLoader.Eval.dataset.transform.name  # type: ignore[union-attr]
        return f"{len(node)} images of DataLoader.Eval, transform {transform}"

    def metrics(self) -> dict[str, float]:
        logits, labels, _ = self.data.features(self._model, self._session.world)
        self.last = logits.argmax(axis=1), labels
        found = {f"eval/top{k}": topk_accuracy(logits, labels, k) for k in (1, 5)}
        return found | {"eval/mean_per_class": mean_per_class_accuracy(*self.last)}

    def entry(self, subject: Subject, metrics: Mapping[str, float], seconds: float) -> Entry:
        """The scorecard's entry of `metrics`, which the weights `subject` were given."""
        config, split = self._session.config, self._session.config.DataLoader.Eval
        train, optimizer = config.DataLoader.Train, config.Optimizer
        assert split is not None
        settings = {
            "layer": "backbone, frozen" if config.Global.task == "linear_probe" else "all",
            "pretrained": config.Global.pretrained_model,
            "optimizer": f"{optimizer.name}({', '.join(f'{k}={v}' for k, v in optimizer.arguments.items())})",
            "rate": build.base_rate(config),
            "schedule": config.LRScheduler.name,
            "epochs": config.Global.epochs,
            "batch": train.sampler.batch_size,
            "augmentation": words(train.dataset.transform),
            "transform": words(split.dataset.transform),
            "split": splits(config.DataLoader),
            "queries": len(self.data.dataset),
            **({"subset": str(train.dataset.subset)} if train.dataset.subset else {}),
            "seed": config.Global.seed,
        }
        scores = {name.removeprefix("eval/"): value for name, value in metrics.items() if name in SCORES}
        return entries.new_entry(
            config.Global.task, scores, settings, subject, data=words(split.dataset), seconds=seconds
        )

    def after_epoch(self, state: TrainState) -> None:
        if state.epoch % self._session.config.Evaluation.every_epochs == 0 or state.step == state.last_step:
            with self._session.signals.interruptible():
                state.metrics |= self.metrics()


@dataclass(frozen=True)
class Prepared:
    training: Training
    validation: Validation


def prepare(session: Session) -> Prepared:
    """Model, data and optimizer from the recipe, the backbone loaded from Global.pretrained_model. Raises UserError."""
    config, task = session.config, session.config.Global.task
    train = open_data(session, config.DataLoader.Train, "DataLoader.Train")
    if train.dataset.labels is None:
        raise UserError(f"DataLoader.Train.dataset: {task} needs labels, and these images have none")
    validation = open_validation(session)
    if train.dataset.classes != validation.dataset.classes:
        raise UserError("DataLoader.Eval.dataset: its classes are not those of DataLoader.Train.dataset")
    model = build.model(config, train.dataset, train.transform.size)
    learner = Classification(model, build.loss(config), train.normalize, frozen=task == "linear_probe")
    return Prepared(Training.prepare(session, learner, train), Validation(session, model, validation))


def open_validation(session: Session) -> Data:
    """The images to score on, with their labels. Raises UserError."""
    split, task = session.config.DataLoader.Eval, session.config.Global.task
    if split is None:
        raise UserError(f"DataLoader.Eval: {task} needs images to score on, and the recipe gives none")
    data = open_data(session, split, "DataLoader.Eval")
    if data.dataset.labels is None:
        raise UserError(f"DataLoader.Eval.dataset: {task} needs labels, and these images have none")
    return data


def run(session: Session) -> TrainState:
    """Train as the recipe says and score every epoch; the best and the last top-1 are said at the end."""
    prepared = prepare(session)
    training, model = prepared.training, prepared.training.learner.model
    probing = session.config.Global.task == "linear_probe"
    if session.config.Global.pretrained_model is None and probing:
        raise UserError(
            "Global.pretrained_model: a linear probe scores a pretrained backbone; give a checkpoint or a run, "
            "for instance -o Global.pretrained_model=output/simsiam_r18_pt_digits"
        )
    require(session, check_training(training))
    training.describe()
    state = training.begin()
    begun, start = state.step, time.perf_counter()
    before = _snapshot(model.backbone) if probing else {}
    callbacks: list[Callback] = [prepared.validation, EpochReport(session.log, session.config.Global.epochs)]
    training.fit(state, callbacks, best_by="eval/top1")
    if probing:
        _assert_unchanged(before, _snapshot(model.backbone))
        session.log.info(f"backbone unchanged: all {len(before)} weights and buffers are bitwise what they were")
    if state.best is not None and session.config.Evaluation.best_by.metric in (None, "eval/top1"):
        last = state.metrics.get("eval/top1", float("nan"))
        session.log.info(f"top-1: best {state.best:.4f}, last {last:.4f} ({prepared.validation.protocol})")
    if state.step > begun and "eval/top1" in state.metrics and session.world.is_main:
        _keep_scores(session, prepared.validation, state.metrics, time.perf_counter() - start)
    report_classification(session, model, training.data, prepared.validation)
    return state


def _keep_scores(session: Session, validation: Validation, metrics: Mapping[str, float], seconds: float) -> None:
    """The last epoch's scores into the scorecards of this run and of the pretraining that it began with."""
    log, source = session.log, session.config.Global.pretrained_model
    entry = validation.entry(Subject.of(io.find(session.folder)), metrics, seconds)
    entries.say(log, entry)
    _warn_at_chance(session, validation, metrics)
    entries.keep(log, session.folder, [entry])
    pretraining = Subject.at(source) if source else None
    if pretraining and pretraining.run:
        settings = {**entry.settings, "run": str(session.folder)}
        entries.keep(log, pretraining.run, [replace(entry, checkpoint=pretraining.facts, settings=settings)])


def _warn_at_chance(session: Session, validation: Validation, metrics: Mapping[str, float]) -> None:
    assert validation.last is not None
    entries.warn_at_chance(session.log, "top-1", metrics["eval/top1"], chance_level(validation.last[1]))


def _snapshot(layer: paddle.nn.Layer) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in layer.state_dict().items()}


def _assert_unchanged(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """A probe whose backbone moved measures something else: a defect here, not a mistake of the user's."""
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        raise RuntimeError(f"the linear probe changed {len(changed)} tensors of the backbone, such as {changed[0]!r}")


def evaluate(session: Session) -> dict[str, float]:
    """Top-1 and top-5 of a checkpoint that a probe or fine-tuning wrote."""
    config = session.config
    validation = open_validation(session)
    size = build.transform(config.DataLoader.Train, "DataLoader.Train").size
    model = build.model(config, validation.dataset, size)
    checkpoint = checkpoint_to_score(config, session.log)
    apply_weights(model, checkpoint.model, source=str(checkpoint.path))
    scored, start = Validation(session, model, validation), time.perf_counter()
    metrics = scored.metrics()
    entry = scored.entry(Subject.of(checkpoint.path.resolve()), metrics, time.perf_counter() - start)
    entries.say(session.log, entry)
    if session.world.is_main:
        _warn_at_chance(session, scored, metrics)
        entries.keep(session.log, session.folder, [entry])
    return metrics
