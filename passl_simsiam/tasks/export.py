"""From a run or a weight file to an exported model: what is taken of it, and the real images it is checked on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam import build
from passl_simsiam.data.base import Dataset
from passl_simsiam.data.decode import BadImage
from passl_simsiam.errors import UserError
from passl_simsiam.export.folder import export
from passl_simsiam.export.network import Network
from passl_simsiam.export.proof import BATCHES
from passl_simsiam.tasks.images import open_images
from passl_simsiam.tasks.pretrained import LAYERS, Pretrained, load_pretrained

Say = Callable[[str], Any]

#: What can be exported: the output of a layer, or a classifier's logits.
OUTPUTS = ("logits", *LAYERS)


def run(
    source: str, out: Path, *, formats: Sequence[str], output: str | None, raw: bool, folder: str | None, warn: Say
) -> dict[str, Any]:
    """Export `source`; what export.json says.

    Args:
        source, warn: see `load_pretrained`.
        output: one of OUTPUTS; None: the logits of a classifier, else the backbone's features.
        folder: of images to check on, or a list of them; None: those of the recipe that the network was trained by.

    Raises:
        UserError: see `load_pretrained` and `export`.
    """
    pretrained = load_pretrained(source, warn)
    output = output or ("logits" if pretrained.is_classifier else "backbone")
    data = _images_of(pretrained, folder, warn)
    real = {data[0]: _views(pretrained, data[1])} if data else {}
    return export(_network(pretrained, output), out, formats=formats, raw=raw, real=real)


def _network(pretrained: Pretrained, output: str) -> Network:
    logits = output == "logits"
    state = pretrained.state
    return Network(
        layer=pretrained.logits() if logits else pretrained.layer(output),
        output="logits" if logits else "features",
        size=pretrained.transform.size,
        mean=pretrained.images.mean,
        std=pretrained.images.std,
        view=_view(pretrained.transform),
        classes=pretrained.images.classes if logits else None,
        source={
            "path": str(pretrained.path),
            "sha256": pretrained.sha256,
            **{key: state[key] for key in ("epoch", "step") if key in state},
            "layer": output,
        },
    )


def _view(transform: Any) -> dict[str, Any]:
    known = dataclasses.is_dataclass(transform) and not isinstance(transform, type)
    arguments = dataclasses.asdict(transform) if known else {"size": transform.size}
    return {"name": type(transform).__name__, **arguments}


def _images_of(pretrained: Pretrained, folder: str | None, warn: Say) -> tuple[str, Dataset] | None:
    """Real images and where they are from: the user's folder, or the recipe's own where they are still there."""
    if folder is not None:
        return f"images of {folder}", open_images(folder, pretrained.images.in_channels, "all")
    if pretrained.config is None:
        warn("no real images to check the export on, only random pixels; give some by --images FOLDER")
        return None
    loader = pretrained.config.DataLoader
    name, split = ("Eval", loader.Eval) if loader.Eval else ("Train", loader.Train)
    try:
        return f"images of DataLoader.{name}", build.dataset(split, f"DataLoader.{name}")
    except UserError as error:
        warn(f"no real images to check the export on, only random pixels ({error}); give some by --images FOLDER")
        return None


def _views(pretrained: Pretrained, data: Dataset) -> np.ndarray:
    """uint8 [n, size, size, channels]: the evaluation views of up to as many images as a check takes, evenly chosen."""
    count = min(len(data), sum(BATCHES))
    views = []
    for index in np.linspace(0, len(data) - 1, count).astype(int):
        try:
            views.append(pretrained.transform(data.read(int(index)), [np.random.default_rng(0)])[0])
        except BadImage:
            continue
    if not views:
        raise UserError(f"none of the {count} images that the export was to be checked on can be read")
    return np.stack(views)
