"""Runs side by side: what differs in their recipes, where they ended, their scores, and one picture of their curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from passl_simsiam.errors import UserError
from passl_simsiam.evaluation import scorecard
from passl_simsiam.evaluation.scorecard import Entry
from passl_simsiam.log import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Records that tell how a run went, in the order of the table: key, name, and by what to multiply it.
CURVES = (
    ("train/loss", "loss", 1),
    ("health/std", "std of z/|z|", 1),
    ("health/rank", "effective rank", 1),
    ("eval/knn_top1", "kNN top-1 (%)", 100),
    ("eval/top1", "top-1 (%)", 100),
)
#: Settings that a protocol finds out or that follow from the network: runs may differ in them and still be compared.
FOUND = {"rate", "weight_decay", "rates_within_a_point", "iterations", "dimensions", "pretrained", "run"}
#: What a recipe says about where things are, how often they are written and how fast they are done.
INCIDENTAL = {"output_dir", "threads", "device", "checkpoint", "keep_last", "loader", "root", "print_batch_step"}
INCIDENTAL |= {"save_every_epochs", "save_every_steps", "save_every_minutes", "on_save_error", "hang_timeout"}
INCIDENTAL |= {"max_skipped_steps", "Evaluation", "Faults"}


@dataclass(frozen=True)
class Run:
    """What a run's folder tells.

    Attributes:
        name: the shortest end of its path that tells it from the others.
        recipe: dotted keys of config.yaml.
        records: of metrics.jsonl.
        entries: the last of each protocol and layer.
    """

    name: str
    recipe: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    entries: Mapping[tuple[str, str], Entry]

    def last(self, key: str) -> float | None:
        """The last number recorded under `key`."""
        values = [record[key] for record in self.records if record.get(key) is not None]
        return values[-1] if values else None

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(images seen, values), float64 [n] each: runs of other batch sizes share the axis."""
        batch = self.recipe.get("DataLoader.Train.sampler.batch_size", 1)
        points = [(r["step"] * batch, r[key]) for r in self.records if r.get(key) is not None]
        table = np.array(points, np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]


def compare(folders: Sequence[Path], out: Path) -> tuple[Path, str]:
    """Compare runs: write a Markdown table to `out` and the curves beside it as PNG; the path and the table.

    Raises:
        UserError: fewer than two runs, a folder that is none, or `out` cannot be written.
    """
    if len(folders) < 2:
        raise UserError("--compare: give two runs at least")
    runs = [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    picture = curves(runs)
    text = table(runs)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shown = f"\n![curves]({out.with_suffix('.png').name})\n" if picture is not None else ""
        out.write_text(f"# {len(runs)} runs compared\n\n{text}{shown}", encoding="utf-8")
        if picture is not None:
            picture.savefig(out.with_suffix(".png"))
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror or error}") from error
    return out, text


def table(runs: Sequence[Run]) -> str:
    """What differs, where the runs ended and their scores: a Markdown table, a column a run."""
    rows: list[list[str]] = [["", *(run.name for run in runs)]]
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    for key in keys:
        values = [run.recipe.get(key) for run in runs]
        if not INCIDENTAL & set(key.split(".")) and any(value != values[0] for value in values):
            rows.append([key, *("-" if value is None else str(value) for value in values)])
    for key, name, factor in (("epoch", "epochs", 1), ("step", "steps", 1), *CURVES):
        last = [run.last(key) for run in runs]
        if any(value is not None for value in last):
            rows.append([name, *(_number(value, factor) for value in last)])
    notes: list[str] = []
    for protocol, layer in dict.fromkeys(key for run in runs for key in run.entries):
        entries = [run.entries.get((protocol, layer)) for run in runs]
        rows += _scores(entries, layer, notes)
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes)])


def curves(runs: Sequence[Run]) -> Figure | None:
    """A panel for each of CURVES that some run has, a line a run; None where none has any."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    panels = [(key, name, factor) for key, name, factor in CURVES if any(len(run.curve(key)[0]) for run in runs)]
    if not panels:
        return None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.0 * rows + 0.3 * len(runs)), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    lines = {}
    for axes, (key, name, factor) in zip(grid, panels, strict=False):
        for number, run in enumerate(runs):
            images, values = run.curve(key)
            if len(images):
                marker = "o" if len(images) < 30 else None
                (line,) = axes.plot(
                    images, factor * values, color=f"C{number % 10}", linewidth=1.2, marker=marker, markersize=3
                )
                lines[run.name] = line
        axes.set_title(name)
        axes.set_xlabel("images seen")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", frameon=False, ncols=1)
    return figure


def _scores(entries: Sequence[Entry | None], layer: str, notes: list[str]) -> list[list[str]]:
    """A row for each score of one protocol; where it is not the same protocol for all, a mark and a note."""
    known = [entry for entry in entries if entry]
    protocols = dict.fromkeys(_protocol(entry) for entry in known)
    mark = ""
    if len(protocols) > 1:
        mark = "*" * (len(notes) + 1)
        notes.append(f"{mark} not the same protocol, so not to be compared: " + " / ".join(protocols))
    title = known[0].title + (f", {layer}" if layer not in ("", "backbone") else "")
    names = dict.fromkeys(name for entry in known for name in entry.scores)
    return [
        [
            f"{title}: {scorecard.score_name(name)} (%){mark}",
            *(_number(e.scores.get(name) if e else None, 100) for e in entries),
        ]
        for name in names
    ]


def _protocol(entry: Entry) -> str:
    settings = {name: value for name, value in entry.settings.items() if name not in FOUND}
    return f"{scorecard.settings_in_words(settings)}, data={entry.data}"


def _number(value: float | None, factor: float) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{factor * value:.2f}" if factor == 100 else f"{value:.4g}"


def _read(folder: Path, name: str) -> Run:
    recipe = folder / "config.yaml"
    if not recipe.is_file():
        raise UserError(f"--compare: {folder} is no run's folder: there is no config.yaml in it")
    try:
        node = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--compare: {recipe} cannot be read: {error}") from error
    path = folder / "metrics.jsonl"
    entries = {(e.protocol, str(e.settings.get("layer", ""))): e for e in scorecard.read(folder)}
    return Run(name, _flatten(node), read_metrics(path) if path.is_file() else [], entries)


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError("--compare: the same run is given twice")


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {k: v for key, value in node.items() for k, v in _flatten(value, f"{prefix}.{key}".lstrip(".")).items()}
