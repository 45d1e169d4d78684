"""Features of a checkpoint, computed once and kept in the run's folder for whatever is asked of them next.

    RUN/features/KEY.npy    float32 [n, d], in the order of the data set
                 KEY.json   all that they depend on, and the images that could not be read

KEY is a hash of the checkpoint's hash, layer, data, transform and normalisation, which KEY.json spells out and every
reader compares. The files are read as memory maps, which processes of one machine share: a bank larger than memory is
no trouble. Delete the folder when you are done with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from passl_simsiam import __version__, distributed
from passl_simsiam.data.decode import BadImage
from passl_simsiam.errors import UserError
from passl_simsiam.evaluation.features import Features
from passl_simsiam.tasks.pretrained import LAYERS
from passl_simsiam.tasks.session import Data, Session

if TYPE_CHECKING:
    from passl_simsiam.config.schema import Component, DataLoaderSection
    from passl_simsiam.data.base import Dataset

FOLDER = "features"
SAMPLED = 64  # images whose pixels tell whether files were changed in place


def layer_of(model: paddle.nn.Layer, name: str) -> paddle.nn.Layer:
    """Images [b, C, H, W] -> features [b, d] of the backbone, of the projector on it, or of the predictor on that.

    Raises:
        UserError: the method has no such part.
    """
    parts = [getattr(model, part, None) for part in LAYERS[name]]
    if None in parts:
        raise UserError(f"--layer {name}: {type(model).__name__} has no {name}")
    return parts[0] if len(parts) == 1 else paddle.nn.Sequential(*parts)


def key_of(data: Data, transform: Component, *, checkpoint: str, layer: str) -> dict[str, Any]:
    """All that features depend on.

    Args:
        checkpoint: the SHA-256 of the weights.
    """
    return {
        "checkpoint": checkpoint,
        "layer": layer,
        "images": len(data.dataset),
        "content": fingerprint(data.dataset),
        "transform": words(transform),
        "mean": list(data.dataset.mean),
        "std": list(data.dataset.std),
        "version": __version__,
    }


def words(node: Component) -> str:
    """A recipe's node as a call: "Resize(size=32)"."""
    plain = {key: value for key, value in node.arguments.items() if value is not None}
    return f"{node.name}({', '.join(f'{key}={value}' for key, value in plain.items())})"


def splits(node: DataLoaderSection) -> str:
    """What is fitted on and what is scored on: "train to test"."""
    names = (
        str(split.dataset.arguments.get("split", name))
        for name, split in (("Train", node.Train), ("Eval", node.Eval))
        if split
    )
    return " to ".join(names)


def fingerprint(dataset: Dataset) -> str:
    """A hash of every image's name and label, and of the pixels of a few of them."""
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        digest.update(dataset.name(index).encode(errors="surrogateescape") + b"\n")
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    for index in np.linspace(0, len(dataset) - 1, min(SAMPLED, len(dataset))).astype(int).tolist():
        try:
            image = dataset.read(index)
            digest.update(str(image.shape).encode() + image.tobytes())
        except BadImage as error:
            digest.update(str(error).encode())
    return digest.hexdigest()


def stored_features(
    session: Session, data: Data, layer: paddle.nn.Layer, folder: Path, key: Mapping[str, Any], what: str
) -> Features:
    """Features of every image of `data` that can be read, on every rank: those in `folder`, or new ones, kept there.

    Where the folder cannot be written they are held in memory, and a warning says so.

    Args:
        layer: images -> features [b, d].
        key: what they depend on (see `key_of`).
        what: the images in a word, for the log.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}.npy"
    labels = data.dataset.labels
    kept = _open(path, key)
    if kept is not None:
        session.log.info(f"features of the {what} images: {path}, computed before")
    else:
        layer.eval()
        with paddle.no_grad():
            shape = (1, data.dataset.in_channels, data.transform.size, data.transform.size)
            channels = layer(paddle.zeros(shape)).shape[-1]
        problem = _create(path, (len(data.dataset), channels)) if session.world.is_main else ""
        if distributed.total([bool(problem)], session.world)[0]:
            if session.world.is_main:
                session.log.warn(f"features are not kept in {folder}: {problem}")
            return data.features(layer, session.world)
        _compute(session, data, layer, path, key, what)
        kept = _open(path, key)
        if kept is None:
            raise UserError(f"the features just written to {path} are gone; do all processes see the same folder?")
    features, indices = kept
    return Features(features, np.full(len(indices), -1) if labels is None else labels[indices], indices)


def _open(path: Path, key: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Features and the images they are of, or None where there are none for `key`."""
    try:
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        indices = np.setdiff1d(np.arange(key["images"]), np.array(content["unreadable"], np.int64))
        sound = content["key"] == key and rows.dtype == np.float32 and len(rows) == key["images"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (rows[: len(indices)], indices) if sound else None


def _create(path: Path, shape: tuple[int, int]) -> str:
    """Make room for the features; what the system had against it, or nothing."""
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(aside, "w+", np.float32, shape)
        with aside.open("r+b") as file:
            # Without its blocks a file on a full disk ends the process at some write into the map.
            os.posix_fallocate(file.fileno(), 0, aside.stat().st_size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            with contextlib.suppress(OSError):
                aside.unlink()
            return error.strerror or str(error)
    return ""


def _compute(
    session: Session, data: Data, layer: paddle.nn.Layer, path: Path, key: Mapping[str, Any], what: str
) -> None:
    """Fill the file, each rank its images, and put it in its place."""
    world, aside = session.world, _aside(path)
    rows = np.lib.format.open_memmap(aside, "r+")
    seen = []
    with (
        data.loader as loader,
        session.log.progress(len(loader), label=f"features of {len(data.dataset)} {what} images") as bar,
    ):
        for images, index in data.encoded(layer):
            rows[index] = images
            seen.append(index)
            bar.update(images=len(index) * world.size, waited=loader.waited)
    rows.flush()
    indices = np.sort(distributed.gather_rows(np.concatenate(seen), world))
    if world.is_main:
        if len(indices) < len(rows):
            for low in range(0, len(indices), 4096):  # close the gaps; what is read never lies before what is written
                rows[low : low + 4096] = rows[indices[low : low + 4096]]
            rows.flush()
        missing = np.setdiff1d(np.arange(len(rows)), indices)
        aside.replace(path)
        description = json.dumps({"key": key, "unreadable": missing.tolist()}, indent=1)
        path.with_suffix(".json").write_text(description + "\n", encoding="utf-8")
        session.log.info(f"features kept in {path} ({rows.nbytes / 1e6:.0f} MB)")
    distributed.total([0], world)  # nobody reads before it is there


def _aside(path: Path) -> Path:
    return path.with_name(f".tmp-{path.name}")
