"""Scoring a pretrained network by its features: any number of protocols on features computed once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from passl_simsiam import build
from passl_simsiam.checkpoint.weights import apply_weights
from passl_simsiam.config.schema import Component, Split
from passl_simsiam.data import decode
from passl_simsiam.data.base import Dataset
from passl_simsiam.data.decode import BadImage
from passl_simsiam.errors import UserError, suggest
from passl_simsiam.evaluation.features import Features
from passl_simsiam.evaluation.knn import nearest
from passl_simsiam.evaluation.metrics import chance_level
from passl_simsiam.evaluation.scorecard import Entry
from passl_simsiam.tasks import entries, features
from passl_simsiam.tasks.entries import Subject
from passl_simsiam.tasks.monitor import NothingToScore, open_pair
from passl_simsiam.tasks.pretrained import LAYERS
from passl_simsiam.tasks.protocols import PROTOCOLS, Material
from passl_simsiam.tasks.session import Data, Session, checkpoint_to_score, open_data

ALL = "all"
NEIGHBOURS = 10


@dataclass(frozen=True)
class Wanted:
    """What is asked of the features.

    Attributes:
        protocols: names of PROTOCOLS, or "all".
        layer: whose output the features are, one of LAYERS.
        neighbours: image files whose nearest training images are wanted.
    """

    protocols: Sequence[str] = ("knn",)
    layer: str = "backbone"
    neighbours: Sequence[str] = ()

    def names(self) -> list[str]:
        """The protocols, in the order of PROTOCOLS. Raises UserError for an unknown one."""
        for name in self.protocols:
            if name != ALL and name not in PROTOCOLS:
                raise UserError(f"--protocol: unknown protocol {name!r}; {suggest(name, [*PROTOCOLS, ALL])}")
        return [name for name in PROTOCOLS if name in self.protocols or ALL in self.protocols]


@dataclass(frozen=True)
class Network:
    """A layer of the network that is scored, and where its features are kept."""

    session: Session
    subject: Subject
    layer: paddle.nn.Layer
    name: str
    transform: Component

    @property
    def run(self) -> Path:
        """The folder of the run that the weights belong to; for a bare file of weights, Global.output_dir."""
        return self.subject.run or self.session.folder

    def features(self, data: Data, what: str) -> Features:
        key = features.key_of(data, self.transform, checkpoint=self.subject.sha256, layer=self.name)
        return features.stored_features(self.session, data, self.layer, self.run / features.FOLDER, key, what)


def score(session: Session, wanted: Wanted) -> list[Entry]:
    """Score a checkpoint of the recipe's run, or Global.pretrained_model, and add to the run's scorecard.

    Raises:
        UserError: no checkpoint, no such protocol or layer, or no labels to score with.
    """
    names, config = wanted.names(), session.config
    split = config.DataLoader.Eval
    if split is None:
        raise UserError("nothing to score: the recipe has no DataLoader.Eval")
    train = open_data(session, config.DataLoader.Train, "DataLoader.Train")
    model = build.model(config, train.dataset, train.transform.size)
    subject = _load(session, model, wanted.layer)
    layer = features.layer_of(model, wanted.layer)
    layer.eval()
    network = Network(session, subject, layer, wanted.layer, split.dataset.transform)
    done = _score(network, train, names) if names else []
    if wanted.neighbours:
        _neighbours(network, train, split, wanted.neighbours)
    return done


def _load(session: Session, model: paddle.nn.Layer, layer: str) -> Subject:
    """Weights into the model: Global.checkpoint, else Global.pretrained_model, else the run's best or latest.

    What a probe or a fine-tuning began with is not its own score, so there Global.pretrained_model does not count.
    """
    node = session.config.Global
    if node.task != "pretrain" or node.pretrained_model is None or node.checkpoint is not None:
        checkpoint = checkpoint_to_score(session.config, session.log)
        apply_weights(model, checkpoint.model, source=str(checkpoint.path))
        return Subject.of(checkpoint.path.resolve())
    subject = Subject.at(node.pretrained_model)
    weights = subject.weights()
    for part in LAYERS[layer]:
        if (target := getattr(model, part, None)) is not None:
            counts = apply_weights(target, weights, prefix=f"{part}.", source=str(subject.path))
            session.log.info(f"{part} weights from {subject.path}: {counts}")
    return subject


def _score(network: Network, train: Data, names: Sequence[str]) -> list[Entry]:
    session, config, log = network.session, network.session.config, network.session.log
    assert config.DataLoader.Eval is not None
    try:
        bank_data, query_data = open_pair(session, train)
    except NothingToScore as error:
        raise UserError(f"nothing to score: {error}") from error
    bank, queries = network.features(bank_data, "training"), network.features(query_data, "evaluation")
    classes = len(query_data.dataset.classes or ())
    material = Material(bank, queries, classes, config.Global.seed, config.Evaluation, session.world)
    common = {
        "layer": network.name,
        "dimensions": bank.features.shape[1],
        "transform": features.words(network.transform),
        "split": features.splits(config.DataLoader),
        "bank": len(bank.labels),
        "queries": len(queries.labels),
        "seed": config.Global.seed,
    }
    data, chance, done = features.words(config.DataLoader.Eval.dataset), chance_level(queries.labels), []
    # Where ranks share the bank all of them are needed; what one process computes alone is the main one's.
    for name in names if session.world.is_main else [name for name in names if name == "knn"]:
        start = time.perf_counter()
        found = PROTOCOLS[name](material)
        seconds = time.perf_counter() - start
        settings = {**found.settings, **common}
        entry = entries.new_entry(name, found.scores, settings, network.subject, data=data, seconds=seconds)
        entries.say(log, entry)
        if session.world.is_main:
            for note in found.notes:
                log.warn(note)
            if "top1" in entry.scores:
                entries.warn_at_chance(log, f"{entry.title} top-1", entry.scores["top1"], chance)
        done.append(entry)
    if session.world.is_main:
        entries.keep(log, network.run, done)
    return done


def _neighbours(network: Network, train: Data, split: Split, images: Sequence[str]) -> None:
    """Say which training images each of `images` is nearest to."""
    session, dataset = network.session, train.dataset
    data = open_data(session, split, "DataLoader.Eval", dataset=dataset)
    bank = network.features(data, "training")
    for image in images:
        view = data.transform(_read(Path(image), dataset), [np.random.default_rng(0)])[0]
        with paddle.no_grad():
            query = network.layer(data.normalize(paddle.to_tensor(view[None]))).numpy()
        similarity, index = nearest(bank.features, query, min(NEIGHBOURS, len(bank.features)))
        session.log.info(f"nearest training images of {image}, by cosine similarity of {network.name} features:")
        for value, row in zip(similarity[0], index[0], strict=True):
            label = f"  {dataset.classes[int(bank.labels[row])]}" if dataset.classes else ""
            session.log.info(f"    {value:.4f}  {dataset.name(int(bank.indices[row]))}{label}")


def _read(path: Path, dataset: Dataset) -> np.ndarray:
    try:
        return decode.decode(path.read_bytes(), str(path), dataset.in_channels)
    except OSError as error:
        raise UserError(f"--neighbours: {path} cannot be read: {error.strerror}") from error
    except BadImage as error:
        raise UserError(f"--neighbours: {error}") from error
