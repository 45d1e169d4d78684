"""Conversion of weight files between projects that proves itself or writes nothing.

    report = convert("checkpoint_0099.pth.tar", "simsiam_r50.safetensors")
    print(report)

The layout of the source is found from its names and shapes (match.py), every tensor gets a rule or stops the
conversion, the target is written in one step, read back, and compared with what should be in it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from passl_simsiam.checkpoint import io, safe
from passl_simsiam.checkpoint.architecture import architecture
from passl_simsiam.checkpoint.durable import digest
from passl_simsiam.checkpoint.layouts import COUNTER, LAYOUTS, Layout, layout_of
from passl_simsiam.checkpoint.match import Match, match
from passl_simsiam.checkpoint.momentum import no_momentum, official_momentum
from passl_simsiam.checkpoint.proof import Nodes, Proof, Side
from passl_simsiam.checkpoint.render import Fate, Renderer
from passl_simsiam.checkpoint.report import Report
from passl_simsiam.checkpoint.tensors import write_tensors
from passl_simsiam.checkpoint.weights import HOMES, locate, named_tensors
from passl_simsiam.checkpoint.writers import write_pdparams, write_pth
from passl_simsiam.errors import UserError, suggest

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt")


@dataclass(frozen=True)
class Source:
    """A file to convert: its tensors, what they are, and what lies beside them."""

    path: Path  # the file with the weights
    kind: str
    tensors: dict[str, np.ndarray]
    beside: dict[str, Any]
    counts: dict[str, int]  # batches each of our batch norms has seen, where known


def open_source(source: str | Path) -> Source:
    """Read a weight file, or the weights of a checkpoint of ours. Raises UserError."""
    path = locate(source)
    if path.is_dir():
        best = io.pointed(path / io.FOLDER, "best") or io.pointed(path, "best")
        path = io.find(path, "best" if best else "latest") / io.MODEL
    contents = safe.read(path)
    beside = contents.tree if isinstance(contents.tree, dict) else {}
    tensors = named_tensors(contents.tree, path)
    beside = {key: value for key, value in beside.items() if key not in tensors and key not in HOMES}
    counts: dict[str, int] = {}
    if contents.kind == "safetensors":
        with safetensors.safe_open(path, "np") as file:
            counts = _counts((file.metadata() or {}).get(COUNTER, "{}"))
    return Source(path, contents.kind, tensors, beside, counts)


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    with_optimizer: bool = False,
    prove: Callable[[Side, Side, Nodes], Proof | None] | None = None,
    report: Path | None = None,
) -> Report:
    """Convert a weight file.

    Args:
        src: the file (its suffix may be left out), or a run's or checkpoint's folder of ours.
        dst: the file to write. Its suffix says how: .safetensors, .pdparams, .pth (.pt, .tar, .ckpt); without one it
            is a run's folder, which gets a checkpoint that training can go on from.
        source_format, target_format: a layout of layouts.LAYOUTS, with "/" and a way of naming blocks if not its first
            ("patrickhua/shortcut"). The source's is found if not given; the target's follows from the suffix and from
            whether there is a projector: ours, passl or paddle.vision, official or torchvision.
        with_optimizer: carry the momentum of an official checkpoint over, into a folder, and its epoch: training goes
            on where it was. Without, a folder's momentum is zero and its epoch the first.
        prove: runs the networks before and after, the latter as read back from the file: proof.prove. None: tensors
            are compared bit for bit, no network runs.
        report: where to save the report, a .json or .md file; None: beside `dst` as NAME.report.json.

    Returns:
        The report.

    Raises:
        UserError: an unreadable file, a tensor without a rule, a layout that cannot hold the network, a difference
            between what was written and what should be there. Nothing is written then.
    """
    path = Path(dst)
    aside = path.with_name(f".converting-{path.name}")
    try:
        result, before, after = _convert(src, path, aside, source_format, target_format, with_optimizer)
        result = replace(result, proof=prove(before, after, result.architecture) if prove else None)
        result.save(report or path.with_name(path.name + ".report.json"))
        aside.replace(path)
    except UserError as error:
        raise UserError(str(error).replace(aside.name, path.name)) from error
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
    return result


def _convert(
    src: str | Path, path: Path, aside: Path, source_format: str | None, target_format: str | None, with_optimizer: bool
) -> tuple[Report, Side, Side]:
    """Write the target at `aside` and compare it; the report but for the proof, and both sides to prove it on.

    No tensor is in memory on return: PaddlePaddle, which the proof imports, takes as much as a ResNet-50's file.
    """
    source = open_source(src)
    found = match(source.tensors, source_format)
    weights = found.ours(source.tensors)
    nodes = architecture(weights, found.depth)
    layout = _target(path, target_format, nodes)
    _check_place(path, source, with_optimizer)
    counts = source.counts | {ours: int(source.tensors[name].item()) for ours, name in found.counters.items()}
    rendered = Renderer(weights, layout, found.depth, counts)
    velocity: dict[str, np.ndarray] = {}
    if not path.suffix:
        velocity = official_momentum(source.beside, source.tensors, found) if with_optimizer else no_momentum(weights)
    _write(aside, rendered, layout, source, counts, nodes, velocity, goes_on=with_optimizer)
    written = _model_file(aside)
    after = _read_back(written, rendered, layout)
    report = Report(
        source=source.path,
        target=path / written.relative_to(aside),
        source_format=f"{found.layout.name}/{found.blocks}",
        target_format=f"{layout.name}/{layout.blocks[0]}",
        prefix=found.prefix,
        architecture=nodes,
        fates=_join(found, rendered.fates, source),
        norms=_norms(weights),
        velocities=len(velocity) if with_optimizer else 0,
        proof=None,
        sha256={"source": digest(source.path), "target": digest(written)},
    )
    return report, Side(lambda: found.renamed(open_source(src).tensors), found.framework), after


def _check_place(path: Path, source: Source, with_optimizer: bool) -> None:
    """Raise UserError where the target would destroy something or cannot hold what is asked for."""
    if path.exists() and path.resolve() == source.path.resolve():
        raise UserError(f"{path} is the file to convert itself; give the result another name")
    if path.is_dir() and (path.suffix or any(path.iterdir())):
        raise UserError(f"{path} is a folder with something in it; give the result another name")
    if with_optimizer and path.suffix:
        raise UserError(f"--with-optimizer writes a checkpoint to go on from, which is a folder: {path} is a file")


def _model_file(path: Path) -> Path:
    """The file with the weights that was written at `path`, a file or a run's folder."""
    return path if path.suffix else io.find(path) / io.MODEL


def _target(path: Path, name: str | None, nodes: Mapping[str, Any]) -> Layout:
    """The layout to write, checked against the file's suffix."""
    suffix, whole = path.suffix, "neck" in nodes
    if suffix not in ("", ".safetensors", ".pdparams", *TORCH_SUFFIXES):
        raise UserError(
            f"{path}: what to write is told from the suffix; {suggest(suffix, ('.safetensors', '.pdparams', '.pth'))}"
        )
    if name is None:
        guesses = {".pdparams": ("paddle.vision", "passl")} | dict.fromkeys(TORCH_SUFFIXES, ("torchvision", "official"))
        name = guesses.get(suffix, ("ours", "ours"))[whole]
    layout = layout_of(name)
    needed = {".pdparams": "paddle", **dict.fromkeys(TORCH_SUFFIXES, "torch")}.get(suffix, layout.framework)
    if layout.framework != needed or (suffix == "" and layout.name != "ours"):
        fitting = [n for n, other in LAYOUTS.items() if other.framework == needed] if suffix else ["ours"]
        raise UserError(f"format {name!r} does not go into {path}; for this suffix {suggest(name, fitting)}")
    return layout


def _write(
    path: Path,
    rendered: Renderer,
    layout: Layout,
    source: Source,
    counts: Mapping[str, int],
    nodes: Mapping[str, Any],
    velocity: Mapping[str, np.ndarray],
    *,
    goes_on: bool,
) -> None:
    """Write the target: a file by its suffix, or without one a run's folder."""
    epoch = int(source.beside.get("epoch") or 0)
    if not path.suffix:
        epoch = epoch if goes_on else 0
        # SimSiam's batch norms see two views a step. What the file does not say starts anew.
        step = max(counts.values(), default=0) // 2 if goes_on else 0
        state = {"step": step, "epoch": epoch, "images": 0, "metrics": {}, "best": None,
                 "random": None, "config": {}, "converted_from": str(source.path)}  # fmt: skip
        io.save(path, f"epoch_{epoch:04d}", model=rendered.tensors, optimizer=velocity, state=state)
    elif path.suffix == ".safetensors":
        metadata = {"format": layout.name, "architecture": json.dumps(nodes), COUNTER: json.dumps(dict(counts))}
        write_tensors(path, rendered.tensors, metadata)
    elif path.suffix == ".pdparams":
        write_pdparams(path, rendered.tensors)
    else:
        tree = {"epoch": epoch, "arch": nodes["backbone"]["name"].lower(), layout.wraps: rendered.tensors}
        write_pth(path, tree if layout.wraps else rendered.tensors)


def _read_back(path: Path, rendered: Renderer, layout: Layout) -> Side:
    """The written file's weights, after a comparison of every bit with what should be there. Raises UserError."""
    tensors = open_source(path).tensors
    for name, array in rendered.tensors.items():
        back = tensors.get(name)
        if back is None or back.dtype != array.dtype or back.shape != array.shape or back.tobytes() != array.tobytes():
            raise UserError(f"{path}: {name} did not come back as it was written")
    found = match(tensors, f"{layout.name}/{layout.blocks[0]}")
    names = {theirs: ours for theirs, (ours, _) in found.names.items()}
    torchs = path if path.suffix in TORCH_SUFFIXES else None
    return Side(lambda: found.renamed(open_source(path).tensors), found.framework, torchs, names)


def _join(found: Match, fates: list[Fate], source: Source) -> list[Fate]:
    """Fates from the source's own names to the target's: found.names followed by the renderer's."""
    theirs = {ours: (name, kind) for name, (ours, kind) in found.names.items()}
    theirs |= {f"{ours}.{COUNTER}": (name, "counter") for ours, name in found.counters.items()}
    joined = []
    for fate in fates:
        name, kind = theirs.get(fate.source, (fate.source, ""))
        turned = kind == "linear" and source.tensors[name].ndim == 2 and found.framework == "torch"
        what = fate.fate
        if what in ("copied", "transposed"):
            what = "transposed" if turned != (what == "transposed") else "copied"
        joined.append(Fate(name, fate.target, what, fate.why))
    dropped = [Fate(name, "", "dropped", why) for name, why in found.dropped.items()]
    return joined + dropped


def _norms(weights: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The 2-norm of each part's parameters, running statistics left out."""
    sums: dict[str, float] = {}
    for name, array in weights.items():
        if not name.endswith(("._mean", "._variance")) and array.dtype.kind == "f":
            part = name.partition(".")[0]
            sums[part] = sums.get(part, 0.0) + float(np.square(array, dtype="float64").sum())
    return {part: total**0.5 for part, total in sums.items()}


def _counts(text: str) -> dict[str, int]:
    """Counters from a file's metadata, which anyone may have written."""
    try:
        counts = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(counts, dict) or not all(type(n) is int and 0 <= n < 1 << 62 for n in counts.values()):
        return {}
    return counts
