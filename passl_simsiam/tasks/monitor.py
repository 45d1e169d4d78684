"""kNN on the backbone's features: the score that tells, without training anything, how good a representation is."""

from __future__ import annotations

import paddle

from passl_simsiam.config.schema import KNN
from passl_simsiam.data.base import NoSuchSplit
from passl_simsiam.engine.loop import Callback, TrainState
from passl_simsiam.errors import UserError
from passl_simsiam.evaluation.features import Features, extract, raw_pixels
from passl_simsiam.evaluation.knn import knn_predict
from passl_simsiam.tasks.session import Data, Session, open_data


class KnnMonitor(Callback):
    """Every so many epochs, the top-1 of a kNN vote over the training images' features for the images of Eval.

    Args:
        bank: training images with the evaluation transform.
        queries: the images of DataLoader.Eval.
    """

    def __init__(self, session: Session, backbone: paddle.nn.Layer, bank: Data, queries: Data, node: KNN) -> None:
        self._session, self._backbone, self._node = session, backbone, node
        self.bank, self.queries = bank, queries

    @property
    def protocol(self) -> str:
        """What the score depends on, to be printed with it."""
        return (
            f"k={min(self._node.k, len(self.bank.dataset))}, T={self._node.temperature}, cosine, backbone features, "
            f"{len(self.bank.dataset)} training images as bank, {len(self.queries.dataset)} as queries, "
            f"transform {self._session.config.DataLoader.Eval.dataset.transform.name}"  # type: ignore[union-attr]
        )

    def features(self) -> tuple[Features, Features]:
        """Backbone features of the whole bank and of the queries."""
        world = self._session.world
        return self.bank.features(self._backbone, world), self.queries.features(self._backbone, world)

    def raw_pixels(self) -> tuple[Features, Features]:
        """The images themselves, flattened, in place of features."""
        world = self._session.world
        return self.bank.extract(raw_pixels, world), self.queries.extract(raw_pixels, world)

    def score(self, bank: Features, queries: Features) -> float:
        """Top-1, a fraction of 1.

        Args:
            bank: this rank's share of it.
            queries: all of them.
        """
        node, world = self._node, self._session.world
        found = knn_predict(
            bank.features,
            bank.labels,
            queries.features,
            ks=node.k,
            temperature=node.temperature,
            rows=bank.indices,
            world=world,
        )
        return float((found.classes[node.k] == queries.labels).mean())

    def metrics(self) -> dict[str, float]:
        world = self._session.world
        bank, queries = self.bank.share(self._backbone), self.queries.features(self._backbone, world)
        return {"eval/knn_top1": self.score(bank, queries)}

    def raw_pixel_score(self) -> float:
        """What the same vote gives for the images themselves, flattened, in place of features."""
        bank = extract(raw_pixels, self.bank.loader.epoch(0))
        return self.score(bank, self.queries.extract(raw_pixels, self._session.world))

    def after_epoch(self, state: TrainState) -> None:
        if state.epoch % self._node.every_epochs == 0 or state.step == state.last_step:
            with self._session.signals.interruptible():
                state.metrics |= self.metrics()
            top1 = state.metrics["eval/knn_top1"]
            self._session.log.info(f"kNN top-1 {top1:.4f} after epoch {state.epoch} ({self.protocol})")


class NothingToScore(UserError):
    """The data has nothing to score features on: no labels, or no split for it."""


def open_monitor(session: Session, backbone: paddle.nn.Layer, train: Data) -> KnnMonitor | None:
    """The monitor that the recipe asks for, or None, with a line that says why."""
    node = session.config.Evaluation.knn
    if node is None:
        return None
    try:
        bank, queries = open_pair(session, train)
    except NothingToScore as error:  # pretraining needs no such split, so its absence must not stop a newcomer
        session.log.warn(f"kNN monitor off: {error}")
        return None
    return KnnMonitor(session, backbone, bank, queries, node)


def open_pair(session: Session, train: Data) -> tuple[Data, Data]:
    """The training images and those of DataLoader.Eval, labelled, both with the evaluation transform.

    Raises:
        NothingToScore: labels or the split are not there.
        UserError: the two splits have different classes.
    """
    split = session.config.DataLoader.Eval
    if split is None:
        raise NothingToScore("the recipe has no DataLoader.Eval")
    if train.dataset.labels is None:
        raise NothingToScore("the training images have no labels")
    try:
        queries = open_data(session, split, "DataLoader.Eval")
    except NoSuchSplit as error:
        raise NothingToScore(str(error)) from error
    if queries.dataset.labels is None or queries.dataset.classes != train.dataset.classes:
        raise UserError("DataLoader.Eval.dataset: its classes are not those of DataLoader.Train.dataset")
    return open_data(session, split, "DataLoader.Eval", dataset=train.dataset), queries


def score_baselines(session: Session, monitor: KnnMonitor) -> dict[str, float]:
    """kNN of random weights (the backbone as it stands) and of raw pixels, recorded at step 0."""
    metrics = {**monitor.metrics(), "eval/raw_pixels_knn_top1": monitor.raw_pixel_score()}
    session.log.record({"step": 0, "epoch": 0, **metrics})
    session.log.info(
        f"before training: kNN top-1 {metrics['eval/knn_top1']:.4f} with random weights, "
        f"{metrics['eval/raw_pixels_knn_top1']:.4f} on raw pixels ({monitor.protocol})"
    )
    return metrics
