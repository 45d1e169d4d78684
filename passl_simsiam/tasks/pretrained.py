"""A pretrained network out of whatever the user has: a run, a checkpoint, a weight file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle import nn
from pydantic import ValidationError

from passl_simsiam import build
from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.architecture import architecture
from passl_simsiam.checkpoint.convert import open_source
from passl_simsiam.checkpoint.durable import digest
from passl_simsiam.checkpoint.match import match
from passl_simsiam.checkpoint.tensors import read_tensors
from passl_simsiam.checkpoint.weights import apply_weights
from passl_simsiam.config import Config
from passl_simsiam.config.schema import Component
from passl_simsiam.data.datasets.files import IMAGENET_MEAN, IMAGENET_STD
from passl_simsiam.errors import UserError
from passl_simsiam.models.backbones.resnet import CIFAR_STEM_UP_TO
from passl_simsiam.registry import BACKBONES, HEADS, NECKS, TRANSFORMS
from passl_simsiam.zoo import resolve

if TYPE_CHECKING:
    from passl_simsiam.data.base import Dataset, Transform

Warn = Callable[[str], Any]
#: What features can be taken of, and the parts of the model that they have gone through.
LAYERS = {"backbone": ("backbone",), "projector": ("backbone", "neck"), "predictor": ("backbone", "neck", "head")}


@dataclass(frozen=True)
class Images:
    """What a network expects of its images.

    Attributes:
        mean, std: of each channel in 0..1.
        classes: names of the classes that it was trained on, if its images had labels.
    """

    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: list[str] | None = None

    @classmethod
    def of(cls, data: Dataset) -> Images:
        return cls(data.in_channels, tuple(data.mean), tuple(data.std), data.classes)


@dataclass(frozen=True)
class Pretrained:
    """A network with its weights, in evaluation mode, and how it wants its images.

    Attributes:
        parts: "backbone", and "neck" and "head" where they are there.
        transform: one view of an image, as the evaluation of its training had it.
        config: the recipe it was trained by; None for a bare weight file.
        path: the checkpoint's folder, or the file. sha256: of the weights.
        state: step and epoch, where known.
    """

    parts: Mapping[str, nn.Layer]
    images: Images
    transform: Transform
    config: Config | None
    path: Path
    sha256: str
    state: Mapping[str, Any]

    @property
    def backbone(self) -> nn.Layer:
        return self.parts["backbone"]

    @property
    def is_classifier(self) -> bool:
        return set(self.parts) == {"backbone", "head"}

    def layer(self, name: str) -> nn.Layer:
        """Images [b, C, H, W] to the features of a layer, one of LAYERS. Raises UserError when it is not there."""
        wanted = LAYERS[name]
        if missing := [part for part in wanted if part not in self.parts]:
            raise UserError(f"{self.path} has no {name}: it holds {', '.join(self.parts)}, but no {missing[0]}")
        return nn.Sequential(*(self.parts[part] for part in wanted)) if len(wanted) > 1 else self.backbone

    def logits(self) -> nn.Layer:
        """Images [b, C, H, W] to logits [b, classes]. Raises UserError unless a classifier was trained on it."""
        if not self.is_classifier:
            raise UserError(
                f"{self.path} is no classifier: it holds {', '.join(self.parts)}; train a linear probe on it, or "
                "fine-tune it, and give that run"
            )
        return nn.Sequential(self.backbone, self.parts["head"])


def load_pretrained(source: str | Path, warn: Warn = warnings.warn) -> Pretrained:
    """Read a network with all that is needed to use it.

    Args:
        source: a run's folder (its best checkpoint, else its latest), a checkpoint's folder, or a weight file of any
            project that conversion knows, with or without its suffix, or a name of the zoo that was downloaded.
        warn: called with one line for each thing that had to be assumed.

    Raises:
        UserError: nothing is there, it cannot be read, or it is no network of ours.
    """
    path = resolve(source)
    if path.name == io.MODEL and (path.parent / io.MANIFEST).is_file():
        path = path.parent
    return _from_checkpoint(path, warn) if path.is_dir() else _from_file(path, warn)


def standard_transform(size: int, resize: int | None = None) -> Transform:
    """The usual view for evaluation: the whole of a small image, the centre of a large one.

    Args:
        size: pixels a side. resize: pixels of the shorter side before the central crop, by default 8/7 of `size`.

    Raises:
        UserError: numbers that make no view.
    """
    if size <= CIFAR_STEM_UP_TO and resize is None:
        node = Component(name="Resize", size=size)
    else:
        node = Component(name="ResizeCenterCrop", size=size, resize=resize or round(size * 8 / 7))
    return build.component(TRANSFORMS, node, "the view")


def _from_checkpoint(path: Path, warn: Warn) -> Pretrained:
    best = io.pointed(path / io.FOLDER, "best") or io.pointed(path, "best")
    folder = io.find(path, "best" if best else "latest", warn)
    state = json.loads((folder / io.STATE).read_text(encoding="utf-8"))
    if not state.get("config"):  # a conversion's: it knows the weights only
        return _from_file(folder / io.MODEL, warn)
    try:
        config = Config.model_validate_json(json.dumps(state["config"]), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(f"{folder}: its recipe is not one of this version: {where}: {problem['msg']}") from error
    images = _images(state, config)
    size = build.transform(config.DataLoader.Train, "DataLoader.Train").size
    model = build.model(config, images, size)
    apply_weights(model, read_tensors(folder / io.MODEL), source=str(folder))
    model.eval()
    parts = {name: part for name in ("backbone", "neck", "head") if (part := getattr(model, name, None)) is not None}
    view = _evaluation_view(config, size)
    return Pretrained(parts, images, view, config, folder, digest(folder / io.MODEL), state)


def _images(state: Mapping[str, Any], config: Config) -> Images:
    """What the checkpoint says of its training images, or, where it does not, the data set itself."""
    if known := state.get("data"):
        return Images(known["in_channels"], tuple(known["mean"]), tuple(known["std"]), known["classes"])
    return Images.of(build.dataset(config.DataLoader.Train, "DataLoader.Train"))


def _evaluation_view(config: Config, size: int) -> Transform:
    split = config.DataLoader.Eval
    if split is not None and (view := build.transform(split, "DataLoader.Eval")).num_views == 1:
        return view
    return standard_transform(size)


def _from_file(path: Path, warn: Warn) -> Pretrained:
    source = open_source(path)
    try:
        found = match(source.tensors)
        weights = found.ours(source.tensors)
        nodes = architecture(weights, found.depth)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    parts: dict[str, nn.Layer] = {}
    width: dict[str, int] = {}  # of what comes into the part; the backbone's node says it itself
    for part, registry in (("backbone", BACKBONES), ("neck", NECKS), ("head", HEADS)):
        if part not in nodes:
            continue
        try:
            layer = build.component(registry, Component(**nodes[part]), part, **width)
            apply_weights(layer, weights, prefix=f"{part}.", source=str(path))
        except UserError as error:
            if part == "backbone":
                raise
            warn(f"{path}: its {part} is left out: {error}")
            break
        layer.eval()
        parts[part], width = layer, {"in_channels": layer.out_channels}
    images, size = _assumed_images(nodes), 224 if nodes["backbone"]["stem"] == "imagenet" else 32
    warn(
        f"{path} does not say how its images were prepared: taking {size} pixels a side, mean {images.mean} and std "
        f"{images.std}"
    )
    classes = nodes.get("head", {}).get("num_classes")
    images = Images(images.in_channels, images.mean, images.std, [str(k) for k in range(classes)] if classes else None)
    state = {key: source.beside[key] for key in ("epoch", "step") if isinstance(source.beside.get(key), int)}
    return Pretrained(parts, images, standard_transform(size), None, path, digest(source.path), state)


def _assumed_images(nodes: Mapping[str, Mapping[str, Any]]) -> Images:
    """ImageNet's statistics; grey images and others take their average over the channels."""
    channels = nodes["backbone"]["in_channels"]
    if channels == len(IMAGENET_MEAN):
        return Images(channels, IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (round(sum(values) / len(values), 3) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return Images(channels, (mean,) * channels, (std,) * channels)
