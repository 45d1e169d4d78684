"""kNN on the backbone's features: the score that tells, without training anything, how good a representation is."""

from __future__ import annotations

import paddle

from passl_simsiam.config.schema import KNN
from passl_simsiam.data.base import NoSuchSplit
from passl_simsiam.engine.loop import Callback, TrainState
from passl_simsiam.errors import UserError
from passl_simsiam.evaluation.features import Features, raw_pixels
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
        """Backbone features of the bank and of the queries."""
        world = self._session.world
        return self.bank.features(self._backbone, world), self.queries.features(self._backbone, world)

    def raw_pixels(self) -> tuple[Features, Features]:
        """The images themselves, flattened, in place of features."""
        world = self._session.world
        return self.bank.extract(raw_pixels, world), self.queries.extract(raw_pixels, world)

    def score(self, bank: Features, queries: Features) -> float:
        """Top-1, a fraction of 1."""
        node = self._node
        found = knn_predict(bank.features, bank.labels, queries.features, ks=node.k, temperature=node.temperature)
        return float((found.classes[node.k] == queries.labels).mean())

    def metrics(self) -> dict[str, float]:
        bank, queries = self.features()
        return {"eval/knn_top1": self.score(bank, queries)}

    def after_epoch(self, state: TrainState) -> None:
        if state.epoch % self._node.every_epochs == 0 or state.step == state.last_step:
            state.metrics |= self.metrics()
            top1 = state.metrics["eval/knn_top1"]
            self._session.log.info(f"kNN top-1 {top1:.4f} after epoch {state.epoch} ({self.protocol})")


def open_monitor(session: Session, backbone: paddle.nn.Layer, train: Data) -> KnnMonitor | None:
    """The monitor that the recipe asks for, or None, with a line that says why."""
    node, split = session.config.Evaluation.knn, session.config.DataLoader.Eval
    if node is None:
        return None
    missing = None
    if split is None:
        missing = "the recipe has no DataLoader.Eval"
    elif train.dataset.labels is None:
        missing = "the training images have no labels"
    if missing is None:
        assert split is not None
        try:
            queries = open_data(session, split, "DataLoader.Eval")
        except NoSuchSplit as error:  # pretraining needs no such split, so its absence must not stop a newcomer
            missing = str(error)
    if missing:
        session.log.warn(f"kNN monitor off: {missing}")
        return None
    assert split is not None
    if queries.dataset.labels is None or queries.dataset.classes != train.dataset.classes:
        raise UserError("DataLoader.Eval.dataset: its classes are not those of DataLoader.Train.dataset")
    bank = open_data(session, split, "DataLoader.Eval", dataset=train.dataset)
    return KnnMonitor(session, backbone, bank, queries, node)


def score_baselines(session: Session, monitor: KnnMonitor) -> dict[str, float]:
    """kNN of random weights (the backbone as it stands) and of raw pixels, recorded at step 0."""
    metrics = {**monitor.metrics(), "eval/raw_pixels_knn_top1": monitor.score(*monitor.raw_pixels())}
    session.log.record({"step": 0, "epoch": 0, **metrics})
    session.log.info(
        f"before training: kNN top-1 {metrics['eval/knn_top1']:.4f} with random weights, "
        f"{metrics['eval/raw_pixels_knn_top1']:.4f} on raw pixels ({monitor.protocol})"
    )
    return metrics
