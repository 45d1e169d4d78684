"""Self-supervised pretraining: two views of each image, no labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paddle

from passl_simsiam import build, distributed
from passl_simsiam.engine.callbacks import EpochReport
from passl_simsiam.engine.guard import CollapseGuard
from passl_simsiam.engine.health import METRICS, UNSAID, Health
from passl_simsiam.engine.loop import Callback, TrainState
from passl_simsiam.errors import TrainingError, UserError
from passl_simsiam.models.normalize import Normalize
from passl_simsiam.tasks.monitor import KnnMonitor, open_monitor, score_baselines
from passl_simsiam.tasks.preflight import check_training, require
from passl_simsiam.tasks.report import report_pretraining, show_views
from passl_simsiam.tasks.session import Session, open_data
from passl_simsiam.tasks.training import Training, loss_of


class Pretraining:
    """The learner: a method, its loss, and the normalisation of its views."""

    def __init__(self, model: paddle.nn.Layer, loss: Callable[..., paddle.Tensor], normalize: Normalize) -> None:
        self.model, self._loss, self._normalize = model, loss, normalize
        self.forward: Callable[..., Any] = model

    def train(self) -> None:
        self.model.train()

    def loss(self, views: list[paddle.Tensor], labels: paddle.Tensor) -> tuple[paddle.Tensor, dict[str, Any]]:
        outputs = self.forward([self._normalize(view) for view in views])
        return loss_of(self._loss, outputs, self.model), outputs


@dataclass(frozen=True)
class Prepared:
    training: Training
    monitor: KnnMonitor | None


def prepare(session: Session) -> Prepared:
    """Everything that pretraining needs, built from the recipe. Raises UserError."""
    config = session.config
    train = open_data(session, config.DataLoader.Train, "DataLoader.Train")
    if train.transform.num_views != 2:
        name = config.DataLoader.Train.dataset.transform.name
        raise UserError(f"DataLoader.Train.dataset.transform: pretraining compares two views, {name} makes one")
    model = build.model(config, train.dataset, train.transform.size)
    learner = Pretraining(model, build.loss(config), train.normalize)
    training = Training.prepare(session, learner, train)
    return Prepared(training, open_monitor(session, model.backbone, train))


def run(session: Session) -> TrainState:
    """Pretrain as the recipe says; write the run's folder and its report."""
    prepared = prepare(session)
    training, monitor = prepared.training, prepared.monitor
    require(session, check_training(training))
    training.describe()
    state = training.begin()
    show_views(session, training.data)
    if monitor and state.step == 0 and session.config.Evaluation.baselines:
        score_baselines(session, monitor)
    guard = open_guard(session, training)
    callbacks: list[Callback] = [open_health(session, training, guard), *([monitor] if monitor else [])]
    callbacks.append(EpochReport(session.log, session.config.Global.epochs, UNSAID))
    training.fit(state, callbacks, best_by="eval/knn_top1" if monitor else None, metrics=METRICS)
    report_pretraining(session, training.learner.model, training.data, monitor)
    if guard.stopped:
        distributed.barrier(session.world, "the report of a collapse")  # the first rank to fail ends the others
        raise TrainingError(guard.stopped)
    return state


def open_health(session: Session, training: Training, guard: CollapseGuard) -> Health:
    """The callback as the recipe sets it."""
    node = session.config.Health
    return Health(
        session.log,
        training.learner.model,
        guard,
        session.world,
        every=node.every,
        sample=node.sample,
        steps_per_epoch=len(training.data.loader),
    )


def open_guard(session: Session, training: Training) -> CollapseGuard:
    """The guard, which can name the settings that usually are to blame, in the order in which they are."""
    config, node = session.config, session.config.Health
    causes = (
        f"Usual causes, in order: a small batch (here {config.DataLoader.Train.sampler.batch_size}), a high learning "
        f"rate ({training.schedule.base_rate:g}), too strong or too weak augmentation "
        f"({config.DataLoader.Train.dataset.transform.name}), no batch norm in projector or predictor, a predictor "
        "that learns too slowly (its rate is best constant)"
    )
    return CollapseGuard(
        node.guard,
        std_below=node.std_below,
        rank_below=node.rank_below,
        reports=node.reports,
        grace_steps=node.grace_steps,
        causes=causes,
    )
