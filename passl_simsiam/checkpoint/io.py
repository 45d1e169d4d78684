"""Atomic, exact checkpoints that survive a kill at any moment.

    RUN/checkpoints/epoch_0001/model.safetensors       weights and buffers, by structural name
                               optimizer.safetensors   its tensors, by structural parameter name
                               state.json              step, epoch, config, metrics, random states, ...
                               manifest.json           size and SHA-256 of the three, written last
                    latest, best -> epoch_0001         links (where links are impossible, files holding the name)

A checkpoint is written into `.tmp-NAME`, synced, and renamed. A reader therefore meets only complete folders or
leftovers whose names begin with a dot, and whatever a disk did later shows in the checksums.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.checkpoint.durable import digest, point, sync_folder, write_json
from passl_simsiam.checkpoint.tensors import read_tensors, write_tensors
from passl_simsiam.errors import UserError, suggest

FOLDER, MANIFEST = "checkpoints", "manifest.json"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
# `.tmp-` is a save or a removal under way; `.old-` is the complete checkpoint that a new one of its name replaces.
UNFINISHED, REPLACED = ".tmp-", ".old-"


class CheckpointError(UserError):
    """A checkpoint that could not be saved, or one that is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """What a verified checkpoint holds. bfloat16 tensors are uint16 arrays, as in Paddle."""

    path: Path
    model: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    state: dict[str, Any]


def save(
    run: Path, name: str, *, model: Mapping[str, Any], optimizer: Mapping[str, Any], state: Mapping[str, Any]
) -> Path:
    """Save one checkpoint and make it the latest. Only one process of a run may call this.

    Args:
        run: the run's folder.
        name: the checkpoint's, for instance "epoch_0001"; an existing one of this name is replaced.
        model: weights and buffers by structural name, as arrays or Paddle tensors.
        optimizer: the optimizer's tensors by structural parameter name.
        state: everything else that resuming needs, as JSON would hold it.

    Returns:
        The checkpoint's folder, complete and on disk.

    Raises:
        CheckpointError: nothing was saved (a full disk, say); earlier checkpoints and `latest` are as they were.
    """
    folder = run / FOLDER
    final, unfinished, replaced = folder / name, folder / f"{UNFINISHED}{name}", folder / f"{REPLACED}{name}"
    with _refusal(f"checkpoint {name} could not be saved in {folder}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            clean(run)
            _write(unfinished, model, optimizer, state, serial=1 + max(map(_serial, _candidates(folder)), default=0))
            if final.exists():
                final.rename(replaced)
            unfinished.rename(final)
            sync_folder(folder)
            point(folder, "latest", name)
        finally:
            clean(run)
    return final


def load(path: Path) -> Checkpoint:
    """Read the checkpoint in folder `path`, every checksum verified. Raises CheckpointError."""
    verify(path)
    return Checkpoint(
        path,
        read_tensors(path / MODEL),
        read_tensors(path / OPTIMIZER),
        json.loads((path / STATE).read_text(encoding="utf-8")),
    )


def verify(path: Path) -> None:
    """Raise CheckpointError, naming the file, unless the checkpoint in folder `path` is complete and undamaged."""
    files = _manifest(path)["files"]
    for name in (MODEL, OPTIMIZER, STATE):
        file = path / name
        if name not in files or not file.is_file():
            raise CheckpointError(f"checkpoint {path} is incomplete: {name} is missing")
        size = file.stat().st_size
        if size != files[name]["size"]:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} has {size} bytes, not {files[name]['size']}")
        if digest(file) != files[name]["sha256"]:
            raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {name} is wrong")


def find(path: Path, which: str = "latest", warn: Callable[[str], Any] = warnings.warn) -> Path:
    """The folder of a verified checkpoint.

    Args:
        path: a run's folder, its `checkpoints` folder, or one checkpoint's folder.
        which: "latest", "best" or a checkpoint's name. A damaged latest is named through `warn`, and the one saved
            before it is taken; any other must be whole.
        warn: called with one line for each damaged checkpoint that is passed over.

    Raises:
        CheckpointError: there is no such checkpoint, or none that is whole.
    """
    if (path / MANIFEST).is_file():
        verify(path)
        return path
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    candidates = sorted(_candidates(folder), key=_serial, reverse=True)
    if not candidates:
        raise CheckpointError(f"there is no checkpoint in {path}")
    if which != "latest":
        chosen = pointed(folder, which) or folder / which
        if not chosen.is_dir():
            names = [c.name for c in candidates if not c.name.startswith(".")]
            raise CheckpointError(f"there is no checkpoint {which!r} in {path}; {suggest(which, names)}")
        verify(chosen)
        return chosen
    latest = pointed(folder, "latest")
    for candidate in candidates if latest is None else [latest, *(c for c in candidates if c != latest)]:
        try:
            verify(candidate)
            return candidate
        except CheckpointError as error:
            warn(f"{error}; trying the checkpoint before it")
    raise CheckpointError(f"every checkpoint in {path} is damaged")


def exists(run: Path) -> bool:
    """Whether the run's folder holds any checkpoint, whole or damaged."""
    return bool(_candidates(run / FOLDER))


def pointed(folder: Path, pointer: str) -> Path | None:
    """The checkpoint that `latest` or `best` in a `checkpoints` folder means, or None without such a pointer."""
    link = folder / pointer
    if link.is_symlink():
        return folder / link.readlink().name
    if link.is_file():
        return folder / Path(link.read_text(encoding="utf-8").strip()).name
    return link if link.is_dir() else None


def mark_best(run: Path, name: str) -> None:
    """Make `best` point to the checkpoint `name`. Raises CheckpointError when there is none, or the disk refuses."""
    folder = run / FOLDER
    if not (folder / name).is_dir():
        raise CheckpointError(f"there is no checkpoint {name!r} in {folder} to mark as the best")
    with _refusal(f"{folder / 'best'} could not be set to {name}"):
        point(folder, "best", name)


def keep_last(run: Path, count: int) -> list[str]:
    """Remove all but the `count` checkpoints saved last and those that `latest` and `best` mean; their names."""
    folder = run / FOLDER
    kept = {pointed(folder, "latest"), pointed(folder, "best")}
    oldest = sorted(_candidates(folder), key=_serial)[: -count or None]
    removed = [path.name for path in oldest if path not in kept]
    with _refusal(f"old checkpoints in {folder} could not be removed"):
        for name in removed:
            # Renamed first: a kill in the middle leaves rubbish with a rubbish name, not a damaged checkpoint.
            (folder / name).rename(folder / f"{UNFINISHED}{name}")
        clean(run)
    return removed


def clean(run: Path) -> None:
    """Remove what killed saves left behind, and put back a checkpoint whose replacement never came.

    For the process that saves: another one would take a save under way for a leftover.
    """
    folder = run / FOLDER
    for leftover in folder.glob(f"{UNFINISHED}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    for replaced in folder.glob(f"{REPLACED}*"):
        final = _successor(replaced)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(final)


def _write(folder: Path, model: Mapping[str, Any], optimizer: Mapping[str, Any], state: Mapping[str, Any],
           serial: int) -> None:  # fmt: skip
    """The four files of a checkpoint, the manifest last, all on disk when this returns."""
    folder.mkdir()
    digests = {
        MODEL: write_tensors(folder / MODEL, model),
        OPTIMIZER: write_tensors(folder / OPTIMIZER, optimizer),
        STATE: write_json(folder / STATE, state),
    }
    files = {name: {"size": (folder / name).stat().st_size, "sha256": digest} for name, digest in digests.items()}
    # The serial orders checkpoints by when they were saved, which after a resume from an earlier one is not their step.
    write_json(folder / MANIFEST, {"format": 1, "serial": serial, "files": files})
    sync_folder(folder)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        sound = isinstance(manifest["serial"], int) and all(
            isinstance(file["size"], int) and isinstance(file["sha256"], str) for file in manifest["files"].values()
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"checkpoint {path} is incomplete: {MANIFEST} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} cannot be read")
    return manifest


def _serial(path: Path) -> int:
    """A checkpoint's place in the order of saving; 0 where its manifest is gone."""
    try:
        return int(_manifest(path)["serial"])
    except CheckpointError:
        return 0


def _candidates(folder: Path) -> list[Path]:
    """Every folder that should hold a complete checkpoint, a replaced one only until its successor has come."""
    return [
        path
        for path in folder.glob("*")
        if path.is_dir()
        and not path.is_symlink()
        and not path.name.startswith(UNFINISHED)
        and not (path.name.startswith(REPLACED) and _successor(path).exists())
    ]


def _successor(replaced: Path) -> Path:
    return replaced.with_name(replaced.name.removeprefix(REPLACED))


@contextlib.contextmanager
def _refusal(what: str) -> Iterator[None]:
    """What the system refuses inside becomes a CheckpointError that begins with `what`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = f"{error.strerror or error}{'; earlier checkpoints are intact' if full else ''}"
        raise CheckpointError(f"{what}: {reason}") from error
