"""A run's scorecard: every score that was taken of it, with all that the score depends on.

RUN/scorecard.json   {"format": 1, "entries": [...]}, the oldest first
    scorecard.md     the same as a table; of entries that differ in nothing but time, the last
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from passl_simsiam.errors import UserError

JSON, MARKDOWN, FORMAT = "scorecard.json", "scorecard.md", 1

TITLES = {
    "knn": "kNN",
    "linear_fast": "linear probe on cached features",
    "logistic": "logistic regression",
    "few_label": "few labels",
    "retrieval": "retrieval",
    "linear_probe": "linear probe",
    "finetune": "fine-tuning",
}


@dataclass(frozen=True)
class Entry:
    """One protocol's scores of one checkpoint.

    Attributes:
        protocol: "knn", "linear_fast", ...; `TITLES` has their names in words.
        scores: by name ("top1", "top5", "precision_at_10", ...), the most telling first, fractions of 1.
        settings: what the scores depend on besides checkpoint and data, as JSON would hold it: k, temperature, metric,
            layer, transform, split, bank, queries, seed, ...
        checkpoint: "path", "step", "epoch", "sha256" of model.safetensors (of the weights' file where it is another).
        data: what was scored on, in words.
        seconds: that the protocol took; features that others share, or that were cached, do not count.
        when: UTC, "2026-11-22T20:10:00Z".
        version: of this package and of PaddlePaddle.
    """

    protocol: str
    scores: Mapping[str, float]
    settings: Mapping[str, Any]
    checkpoint: Mapping[str, Any]
    data: str
    seconds: float
    when: str
    version: str

    @property
    def title(self) -> str:
        return TITLES.get(self.protocol, self.protocol)

    def identity(self) -> str:
        """The same for entries that score the same thing in the same way."""
        parts = (self.protocol, dict(self.settings), self.checkpoint.get("sha256"), self.data)
        return json.dumps(parts, sort_keys=True)


def append(run: Path, entry: Entry) -> None:
    """Add `entry` to the scorecard in the folder `run`; readers see the old files or the new ones, never a part.

    Raises:
        UserError: the scorecard there is damaged, or cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        with _locked(run):
            entries = [*read(run), entry]
            content = {"format": FORMAT, "entries": [asdict(e) for e in entries]}
            _replace(run / JSON, json.dumps(content, indent=1, allow_nan=False) + "\n")
            _replace(run / MARKDOWN, "# Scorecard\n\n" + table(latest(entries)))
    except OSError as error:
        raise UserError(f"the scorecard in {run} cannot be written: {error.strerror or error}") from error


def read(run: Path) -> list[Entry]:
    """The entries of the scorecard in the folder `run`, the oldest first; none where there is no scorecard.

    Raises:
        UserError: the file is damaged or of an unknown format.
    """
    path = run / JSON
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    try:
        if content["format"] != FORMAT:
            raise UserError(f"{path} has format {content['format']}, this version knows {FORMAT}")
        return [Entry(**{field.name: item[field.name] for field in fields(Entry)}) for item in content["entries"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a scorecard") from error


def latest(entries: Sequence[Entry]) -> list[Entry]:
    """Of entries that score the same thing in the same way the last, in the order of their first appearance."""
    return list({entry.identity(): entry for entry in entries}.values())


def table(entries: Sequence[Entry]) -> str:
    """A Markdown table of `entries`, a line each."""
    rows = ["| protocol | scores (%) | depends on | data | checkpoint | when |", "|---|---|---|---|---|---|"]
    for entry in entries:
        cells = (
            entry.title,
            ", ".join(f"{score_name(name)} {100 * value:.2f}" for name, value in entry.scores.items()),
            settings_in_words(entry.settings),
            entry.data,
            checkpoint_in_words(entry.checkpoint),
            f"{entry.when}, {entry.seconds:.1f} s",
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def score_name(name: str) -> str:
    """A key of `Entry.scores` in words: "top1_k20" is "top-1 k=20", "top1_5_labels" is "top-1 with 5 labels"."""
    words = re.sub(r"^top(?=\d)", "top-", name)
    words = re.sub(r"_(\d+)_labels$", r" with \1 labels", words)
    return re.sub(r"_k(\d+)$", r" k=\1", words).replace("_", " ")


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """Every setting, "k=200, metric=cosine, ...": the whole protocol in a line."""
    return ", ".join(f"{name.replace('_', ' ')}={plain(value)}" for name, value in settings.items())


def checkpoint_in_words(checkpoint: Mapping[str, Any]) -> str:
    """Where the checkpoint stands in its training, and the beginning of its hash."""
    place = [f"{name} {checkpoint[name]}" for name in ("epoch", "step") if checkpoint.get(name) is not None]
    return ", ".join([*place, f"sha256 {str(checkpoint.get('sha256'))[:12]}"])


def plain(value: Any) -> str:
    """A setting's value as a reader wants it: 0.1, "1 5 10"."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(plain, value))
    return str(value)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that append here; where the file system knows no locks, as it comes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
