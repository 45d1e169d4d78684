"""Weights from wherever the user has them into a model: strictly, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.checkpoint import io, safe
from passl_simsiam.checkpoint.match import match
from passl_simsiam.checkpoint.tensors import read_tensors
from passl_simsiam.errors import UserError, suggest

SUFFIXES = (".safetensors", ".pdparams", ".pth", ".pt", ".pth.tar", ".ckpt")
# Where projects put the weights among other things.
HOMES = ("state_dict", "model", "model_state_dict", "net")


@dataclass(frozen=True)
class Applied:
    """What `apply_weights` did: tensors loaded, and names in the source that another part of it owns."""

    loaded: int
    unused: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.loaded} tensors loaded, 0 missing, {len(self.unused)} not needed"


def load_weights(source: str | Path) -> dict[str, np.ndarray]:
    """The weights and buffers at `source`, in our names where it is a network that conversion knows.

    So a file of another project can be used as it is. Tensors that no layout explains keep their names: they may be
    those of a component of the user's own.

    Args:
        source: a run's folder (its best checkpoint, else its latest), a checkpoint's folder, or a weight file with or
            without its suffix.

    Raises:
        UserError: nothing is there, or it cannot be read; the message says what was found and what was likely meant.
    """
    path = locate(source)
    if path.is_dir():
        best = io.pointed(path / io.FOLDER, "best") or io.pointed(path, "best")
        return read_tensors(io.find(path, "best" if best else "latest") / io.MODEL)
    tensors = named_tensors(safe.read(path).tree, path)
    try:
        return match(tensors).ours(tensors)
    except UserError:
        return tensors


def locate(source: str | Path) -> Path:
    """The file or folder that `source` means, its suffix added where it lacks. Raises UserError."""
    path = Path(source).expanduser()
    found = [p for p in (path, *(path.with_name(path.name + suffix) for suffix in SUFFIXES)) if p.exists()]
    if found:
        return found[0]
    if not path.parent.is_dir():
        raise UserError(f"there are no weights at {path}: the folder {path.parent} does not exist")
    names = [p.name for p in path.parent.iterdir() if p.is_dir() or p.name.endswith(SUFFIXES)]
    raise UserError(f"there are no weights at {path}; {suggest(path.name, names)}")


def named_tensors(tree: Any, path: Path) -> dict[str, np.ndarray]:
    """The weights in a file's content: the content itself, or what lies under one of HOMES. Raises UserError."""
    if isinstance(tree, dict):
        for home in (tree, *(tree.get(key) for key in HOMES)):
            # Paddle writes a tensor outside of a state_dict as a pair of its internal name and its array.
            pairs = home.items() if isinstance(home, dict) else ()
            tensors = {k: v[1] if isinstance(v, tuple) and len(v) == 2 else v for k, v in pairs}
            tensors = {k: v for k, v in tensors.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
            if tensors:
                return tensors
    keys = ", ".join(map(str, list(tree)[:8])) if isinstance(tree, dict) else f"a {type(tree).__name__}"
    raise UserError(f"{path} holds no weights: neither named tensors nor {' / '.join(HOMES)} with some; it has {keys}")


def apply_weights(layer: Any, weights: Mapping[str, np.ndarray], *, prefix: str = "", source: object = "") -> Applied:
    """Set every parameter and buffer of `layer` from `weights`; all of them or, on any mismatch, none.

    Args:
        layer: a paddle.nn.Layer.
        weights: arrays by name (uint16: bfloat16). Values are cast to the layer's dtypes.
        prefix: what the layer's own names follow in `weights`: "backbone." for a backbone out of a whole model.
        source: where the weights came from, for messages.

    Raises:
        UserError: names of the layer that are missing, names under `prefix` that the layer lacks (a deeper network
            would otherwise load its first blocks), or wrong shapes; all are listed.
    """
    import paddle

    targets = layer.state_dict()
    given = {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}
    where = f"the weights{f' from {source}' if str(source) else ''} do not fit {type(layer).__name__}"
    if not given:
        raise UserError(f"{where}: none of them begins with {prefix!r}; they are {_some(weights)}")
    if missing := sorted(targets.keys() - given.keys()):
        raise UserError(f"{where}: {len(missing)} of {len(targets)} missing: {_some(missing, 1000)}")
    if extra := sorted(given.keys() - targets.keys()):
        raise UserError(f"{where}: it has no {_some(extra)}")
    wrong = [
        f"{name} is {list(given[name].shape)}, not {list(target.shape)}"
        for name, target in targets.items()
        if tuple(given[name].shape) != tuple(target.shape)
    ]
    if wrong:
        raise UserError(f"{where}: {_some(wrong)}")
    for name, target in targets.items():
        target.set_value(paddle.to_tensor(given[name], place="cpu").astype(target.dtype))
    return Applied(len(targets), tuple(sorted(name for name in weights if not name.startswith(prefix))))


def _some(items: Any, count: int = 8) -> str:
    names = list(items)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(str, names[:count])) + more
