"""Pictures of what a network makes of a few images, taken at the end of a run by its main process alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from passl_simsiam.data.base import Dataset, Transform
from passl_simsiam.data.samples import MISSING, SampleMaker
from passl_simsiam.evaluation import feature_pictures as draw
from passl_simsiam.evaluation.document import Picture
from passl_simsiam.evaluation.pictures import pixels
from passl_simsiam.log import RunLog
from passl_simsiam.tasks.images import encoder
from passl_simsiam.tasks.pretrained import standard_transform
from passl_simsiam.tasks.session import Data

Array = np.ndarray[Any, Any]

SAMPLE = 1000  # images of the map: t-SNE of so many takes a few seconds
PAIRS = 400  # images whose views are compared with each other
FEWEST = 20  # images, below which a map says nothing
QUERIES, NEIGHBOURS = 10, 8
BATCH = 100
SEED = 0  # of the choice of images: the same ones in every run


@dataclass(frozen=True)
class Sample:
    """Some images as the network sees them, and its features of them.

    Attributes:
        images: uint8 [n, H, W, C]. features: float32 [n, d]. labels: int64 [n] or None.
    """

    images: Array
    features: Array
    labels: Array | None


def feature_pictures(model: paddle.nn.Layer, train: Data, shown: Data | None, log: RunLog, step: int) -> list[Picture]:
    """Maps, nearest neighbours and similarities of the backbone's features; into VisualDL too.

    Args:
        model: a method with the layers `backbone` and, if it has one, `neck`.
        train: the images that the network was trained on, with the views that it was trained on.
        shown: the images to show, with the evaluation's view; those of `train` if there are no others.
        step: at which VisualDL shows them.
    """
    data, view = (train.dataset, standard_transform(train.transform.size)) if shown is None else (
        shown.dataset, shown.transform)  # fmt: skip
    source = "training images" if shown is None else "images of DataLoader.Eval"
    sample = _sample(model.backbone, data, view, train)
    if len(sample.images) < FEWEST or not np.isfinite(sample.features).all():
        log.warn(f"no pictures of the features: {len(sample.images)} images, or features that are not finite")
        return []
    found = _maps(sample, data.classes, source)
    if data.in_channels in (1, 3):
        found.append(_neighbours(sample, source))
    if train.transform.num_views == 2:
        found.append(_similarity(model, train))
    for picture in found:
        image = pixels(picture.image) if hasattr(picture.image, "savefig") else picture.image
        log.image(f"report/{picture.file.removesuffix('.png')}", image, step)
    names = [_name(sample.labels, data.classes, i) for i in range(len(sample.images))]
    log.embeddings("features", draw.principal(sample.features), names, step)
    return found


def confusion(predictions: Array, labels: Array, classes: list[str], log: RunLog, step: int) -> Picture:
    """The confusion matrix of a classifier."""
    counts = draw.confusion_counts(predictions, labels, len(classes))
    worst = draw.worst_confusions(counts, classes)
    caption = (
        f"Each line is a class of the {len(labels):,} validation images; along it, in percent, what the classifier "
        "called them. All on the diagonal would be perfect; a dark column is a class that it falls back on."
    )
    if worst:
        caption += f" Most often mixed up: {', '.join(worst)}."
    figure = draw.confusion_matrix(counts, classes)
    log.image("report/confusion", pixels(figure), step)
    return Picture("confusion.png", caption, figure)


def _sample(backbone: paddle.nn.Layer, data: Dataset, view: Transform, train: Data) -> Sample:
    wanted = draw.balanced_sample(data.labels, len(data), SAMPLE, SEED)
    (images,), kept = _views(data, view, wanted)
    features = _encode(backbone, train, images)
    return Sample(images, features, None if data.labels is None else data.labels[kept])


def _views(data: Dataset, view: Transform, indices: Array) -> tuple[list[Array], Array]:
    """Views uint8 [n, H, W, C] each of the images that can be read, and which these are."""
    shape = (len(indices), view.size, view.size, data.in_channels)
    out = [np.empty(shape, np.uint8) for _ in range(view.num_views)]
    used, _ = SampleMaker(data, view, SEED, replace=False).fill(0, indices, out)
    kept = used != MISSING
    return [array[kept] for array in out], used[kept]


def _encode(layer: paddle.nn.Layer, train: Data, images: Array) -> Array:
    encode = encoder(layer, train.dataset.mean, train.dataset.std)
    if not len(images):
        return np.zeros((0, 1), np.float32)
    return np.concatenate([encode(images[k : k + BATCH]) for k in range(0, len(images), BATCH)])


def _maps(sample: Sample, classes: list[str] | None, source: str) -> list[Picture]:
    at = draw.places(sample.features)
    look = (
        "Images of one class should lie together, in islands with little mixed in."
        if sample.labels is not None
        else "Islands are groups of images that the network takes for alike."
    )
    points = Picture(
        "map.png",
        f"{len(at):,} {source}, placed by t-SNE so that neighbours in the features stay neighbours. {look} Distances "
        "between islands mean little.",
        draw.feature_map(at, sample.labels, classes),
    )
    if sample.images.shape[3] not in (1, 3):
        return [points]
    thumbnails = Picture(
        "map_images.png",
        "The same map with the images themselves: look at what neighbours have in common. It should be what they show, "
        "not their colour or brightness.",
        draw.thumbnail_map(at, sample.images, sample.labels),
    )
    return [points, thumbnails]


def _neighbours(sample: Sample, source: str) -> Picture:
    queries = draw.first_of_each(sample.labels, len(sample.images), QUERIES)
    found = draw.nearest(sample.features, queries, min(NEIGHBOURS, len(sample.images) - 1))
    caption = (
        f"Left, {len(queries)} images, not picked but the first ones; to the right of each the most similar of "
        f"{len(sample.images):,} {source}, by the cosine of their features."
    )
    if sample.labels is not None:
        right = (sample.labels[found] == sample.labels[queries][:, None]).mean()
        caption += f" Blue frames: the same class; orange: another one. Of those shown, {100 * right:.0f} % are right."
    return Picture("neighbours.png", caption, draw.neighbour_grid(sample.images, queries, found, sample.labels))


def _similarity(model: paddle.nn.Layer, train: Data) -> Picture:
    indices = draw.balanced_sample(None, len(train.dataset), PAIRS, SEED)
    (first, second), _ = _views(train.dataset, train.transform, indices)
    layers = {"backbone's features": model.backbone}
    if getattr(model, "neck", None) is not None:
        layers["embeddings z"] = paddle.nn.Sequential(model.backbone, model.neck)
    rows = []
    for what, layer in layers.items():
        rows.append((what, *draw.similarities(_encode(layer, train, first), _encode(layer, train, second))))
    same, different = rows[0][1:]
    caption = (
        f"Two views of each of {len(first):,} training images. Views of the same image should be more alike than those "
        f"of different ones: with the {rows[0][0]} they are in {100 * draw.separation(same, different):.1f} % of all "
        "comparisons (50 % would be chance). Both heaps at 1 are a collapse."
    )
    return Picture("similarity.png", caption, draw.similarity_histogram(rows))


def _name(labels: Array | None, classes: list[str] | None, i: int) -> str:
    if labels is None:
        return ""
    return classes[int(labels[i])] if classes else str(labels[i])
