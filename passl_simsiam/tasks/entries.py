"""A protocol's scores with all that they depend on: said, and added to the scorecard of the run that was scored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import paddle

from passl_simsiam import __version__
from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.durable import digest
from passl_simsiam.checkpoint.tensors import read_tensors
from passl_simsiam.checkpoint.weights import load_weights
from passl_simsiam.errors import UserError
from passl_simsiam.evaluation import scorecard
from passl_simsiam.evaluation.metrics import Chance
from passl_simsiam.evaluation.scorecard import Entry
from passl_simsiam.log import RunLog
from passl_simsiam.tasks.card import update_card
from passl_simsiam.zoo import resolve


@dataclass(frozen=True)
class Subject:
    """The weights that are scored.

    Attributes:
        path: a checkpoint's folder or a file.
        sha256: of model.safetensors or of the file.
        step, epoch: where its training stood; None for a file.
        run: the folder of the run that it belongs to; None for a file.
    """

    path: Path
    sha256: str
    step: int | None
    epoch: int | None
    run: Path | None

    @classmethod
    def at(cls, source: str | Path) -> Subject:
        """What `Global.pretrained_model` means by `source`. Raises UserError where there is nothing."""
        path = resolve(source)
        if not path.is_dir():
            return cls(path, digest(path), None, None, None)
        best = io.pointed(path / io.FOLDER, "best") or io.pointed(path, "best")
        return cls.of(io.find(path, "best" if best else "latest"))

    @classmethod
    def of(cls, folder: Path) -> Subject:
        """A checkpoint by its folder, which has been verified."""
        state = json.loads((folder / io.STATE).read_text(encoding="utf-8"))
        files = json.loads((folder / io.MANIFEST).read_text(encoding="utf-8"))["files"]
        run = folder.parent.parent if folder.parent.name == io.FOLDER else None
        return cls(folder, files[io.MODEL]["sha256"], state.get("step"), state.get("epoch"), run)

    def weights(self) -> dict[str, Any]:
        return read_tensors(self.path / io.MODEL) if self.path.is_dir() else load_weights(self.path)

    @property
    def facts(self) -> dict[str, Any]:
        return {"path": str(self.path), "step": self.step, "epoch": self.epoch, "sha256": self.sha256}


def new_entry(
    protocol: str,
    scores: Mapping[str, float],
    settings: Mapping[str, Any],
    subject: Subject,
    *,
    data: str,
    seconds: float,
) -> Entry:
    """The entry of a score that was taken just now."""
    return Entry(
        protocol=protocol,
        scores=dict(scores),
        settings=dict(settings),
        checkpoint=subject.facts,
        data=data,
        seconds=round(seconds, 2),
        when=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=f"passl_simsiam {__version__}, PaddlePaddle {paddle.__version__}",
    )


def say(log: RunLog, entry: Entry) -> None:
    """The most telling score with the whole protocol in a line, the other scores in the next."""
    (first, value), *others = entry.scores.items()
    log.info(
        f"{entry.title} {scorecard.score_name(first)} {value:.4f} ({scorecard.settings_in_words(entry.settings)}, "
        f"data={entry.data}, checkpoint {scorecard.checkpoint_in_words(entry.checkpoint)}; {entry.seconds:.1f} s)"
    )
    if others:
        log.info("    " + "  ".join(f"{scorecard.score_name(name)} {value:.4f}" for name, value in others))


def keep(log: RunLog, run: Path, entries: Sequence[Entry]) -> None:
    """Add to the scorecard in `run`, and to its model card; what the disk has against it is a warning: they were said.

    Only the main rank may call it.
    """
    try:
        for entry in entries:
            scorecard.append(run, entry)
    except UserError as error:
        log.warn(str(error))
        return
    log.info(f"scorecard: {run / scorecard.MARKDOWN}")
    update_card(run, log)


def warn_at_chance(log: RunLog, what: str, top1: float, chance: Chance) -> None:
    """Tell what a score that guessing would reach usually means."""
    if top1 > chance.bound:
        return
    log.warn(
        f"{what} {top1:.4f} cannot be told from guessing: naming the most frequent class scores {chance.rate:.4f}, "
        f"and luck exceeds {chance.bound:.4f} once in a hundred times. Likely causes, in order: the weights are not "
        "those of a trained network (a wrong checkpoint, a wrong file); training collapsed (health/std near 0, or "
        "health/rank near 1); the labels of the two splits do not mean the same; the images are prepared otherwise "
        "than in training (size, mean and std, grey or colour); a learning rate far off; too few images to tell"
    )
