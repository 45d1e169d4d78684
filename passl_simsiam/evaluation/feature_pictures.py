"""Pictures of features: their map, their nearest neighbours, how alike views are, what a classifier mixes up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from passl_simsiam.evaluation.pictures import BLUE, GREY, ORANGE, PAPER, new_figure, thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

MAP_CLASSES = 20  # as many colours as an eye may still tell apart
CELLS, CELL = 26, 40  # of the map of thumbnails: cells a side, pixels a side of each
PRINCIPAL = 50  # components that t-SNE starts from, as its authors do


def balanced_sample(labels: Array | None, count: int, size: int, seed: int = 0) -> Array:
    """Indices of at most `size` of `count` images, sorted, int64: as many of each class; of many classes, some.

    Args:
        labels: int [count], or None: any images.
    """
    rng = np.random.default_rng((seed, count))
    if labels is None:
        return np.sort(rng.choice(count, min(size, count), replace=False))
    classes = np.unique(labels)
    if len(classes) > MAP_CLASSES:
        classes = classes[np.linspace(0, len(classes) - 1, MAP_CLASSES).astype(int)]
    members = [np.flatnonzero(labels == label) for label in classes]
    return np.sort(np.concatenate([rng.permutation(m)[: max(1, size // len(classes))] for m in members]))


def principal(features: Array) -> Array:
    """The first PRINCIPAL principal components, float32 [n, at most 50], of float [n, d]."""
    from sklearn.decomposition import PCA

    components = min(PRINCIPAL, *features.shape)
    return PCA(components, random_state=0).fit_transform(features).astype(np.float32)


def places(features: Array) -> Array:
    """t-SNE (van der Maaten and Hinton 2008) of the principal components: float32 [n, 2] from float [n, d], n >= 5."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(features) - 1) / 3)
    with threadpool_limits(limits=1):  # so few points gain nothing from threads, which wait for each other busily
        found = TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(principal(features))
    return found.astype(np.float32)


def feature_map(at: Array, labels: Array | None, classes: Sequence[str] | None) -> Figure:
    """Points at `at` [n, 2], coloured by class."""
    figure, axes = new_figure("Map of the features (t-SNE)", "", "", size=(5.2, 5.6))
    axes.set(xticks=[], yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    if labels is None:
        axes.scatter(at[:, 0], at[:, 1], s=8, color=BLUE, linewidths=0)
        return figure
    for k, label in enumerate(np.unique(labels)):
        mine = at[labels == label]
        name = str(label) if classes is None else classes[int(label)]
        axes.scatter(mine[:, 0], mine[:, 1], s=10, color=class_color(k), linewidths=0, alpha=0.85, label=name[:16])
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8, markerscale=2, handletextpad=0.1)
    return figure


def class_color(k: int) -> tuple[float, ...]:
    """The k-th colour of a class: red, green, blue in 0..1."""
    from matplotlib import colormaps

    return tuple(colormaps["tab20"]((2 * k + k // 10) % 20)[:3])


def thumbnail_map(at: Array, images: Array, labels: Array | None) -> Array:
    """The images themselves at their places in the map, on a grid, one a cell, framed in their class's colour.

    Args:
        at: float [n, 2]. images: uint8 [n, H, W, C]. labels: int [n] or None.

    Returns:
        uint8 [height, width, 3].
    """
    span = np.maximum(at.max(axis=0) - at.min(axis=0), 1e-9)
    scaled = (at - at.min(axis=0)) / span * (CELLS - 1)
    canvas = np.full((CELLS * CELL, CELLS * CELL, 3), 255, np.uint8)
    order = {int(label): k for k, label in enumerate(np.unique(labels))} if labels is not None else {}
    cell_of = np.rint(scaled).astype(int)
    nearest: dict[tuple[int, int], int] = {}
    for i in np.argsort(np.linalg.norm(scaled - cell_of, axis=1), kind="stable").tolist():
        nearest.setdefault((int(cell_of[i, 0]), int(cell_of[i, 1])), i)
    for (x, y), i in nearest.items():
        top, left = (CELLS - 1 - y) * CELL, x * CELL  # up is up, as in the map of points
        color = (PAPER,) * 3 if labels is None else [round(255 * part) for part in class_color(order[int(labels[i])])]
        canvas[top + 1 : top + CELL - 1, left + 1 : left + CELL - 1] = color
        canvas[top + 4 : top + CELL - 4, left + 4 : left + CELL - 4] = thumbnail(images[i], CELL - 8)
    return canvas


def nearest(features: Array, queries: Array, k: int) -> Array:
    """The `k` rows most similar (cosine) to each of the rows `queries`, itself left out: int64 [len(queries), k]."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = unit[queries] @ unit.T
    similarity[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def first_of_each(labels: Array | None, count: int, queries: int) -> Array:
    """Rows to look up: the first of each class, at most `queries` of them, or the first ones without labels."""
    if labels is None:
        return np.arange(min(queries, count))
    return np.sort(np.unique(labels, return_index=True)[1][:queries])


def neighbour_grid(images: Array, queries: Array, found: Array, labels: Array | None) -> Array:
    """A line for each query: itself, then its neighbours, framed blue where their class is the query's, else orange.

    Args:
        images: uint8 [n, H, W, C]. queries: int [q]. found: int [q, k]. labels: int [n] or None: no frames.

    Returns:
        uint8 [height, width, 3].
    """
    side, frame, gap = 72, 5, 6
    lines = []
    for query, row in zip(queries.tolist(), found.tolist(), strict=True):
        space = np.full((side + 2 * frame, 4 * gap, 3), 255, np.uint8)
        cells = [_framed(images[query], side, frame, (PAPER,) * 3), space]
        for i in row:
            right = None if labels is None else labels[i] == labels[query]
            color = (PAPER,) * 3 if right is None else _rgb(BLUE if right else ORANGE)
            cells.append(_framed(images[i], side, frame, color))
        cells = [np.pad(cell, ((0, gap), (0, gap), (0, 0)), constant_values=255) for cell in cells]
        lines.append(np.hstack(cells))
    return np.vstack(lines)


def _framed(image: Array, side: int, frame: int, color: tuple[int, ...]) -> Array:
    cell = np.empty((side + 2 * frame, side + 2 * frame, 3), np.uint8)
    cell[:] = color
    cell[frame:-frame, frame:-frame] = thumbnail(image, side)
    return cell


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def similarities(a: Array, b: Array) -> tuple[Array, Array]:
    """Cosines of two views of the same images, [n], and of views of different images, [n (n - 1)].

    Args:
        a, b: float [n, d], row by row of the same images.
    """
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    every = a @ b.T
    return np.diag(every).copy(), every[~np.eye(len(a), dtype=bool)]


def separation(same: Array, different: Array) -> float:
    """How often a pair of the same image is more alike than one of different images: the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.ones(len(same)), np.zeros(len(different))]
    return float(roc_auc_score(truth, np.r_[same, different]))


def similarity_histogram(of: Sequence[tuple[str, Array, Array]]) -> Figure:
    """Histograms of `similarities`, one below the other, on one axis.

    Args:
        of: (what was compared, cosines of the same image, cosines of different ones).
    """
    from matplotlib.figure import Figure

    low = min(min(same.min(), different.min()) for _, same, different in of)
    edges = np.linspace(low, 1, 61)
    figure = Figure(figsize=(5.2, 1.2 + 1.7 * len(of)), dpi=180, layout="constrained")
    figure.suptitle("How alike are two views?")
    rows = figure.subplots(len(of), sharex=True, squeeze=False)[:, 0]
    for k, (axes, (what, same, different)) in enumerate(zip(rows, of, strict=True)):
        for values, label, color in ((different, "different images", GREY), (same, "the same image", BLUE)):
            weights = np.full(len(values), 100 / len(values))
            axes.hist(values, edges, weights=weights, color=color, alpha=0.65, label=label if k == 0 else None)
        axes.set_title(what, fontsize=9, loc="left")
        axes.set_ylabel("% of pairs")
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("cosine similarity")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def confusion_counts(predictions: Array, labels: Array, classes: int) -> Array:
    """int64 [classes, classes]: of each true class (row), how many were called what (column)."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def confusion_matrix(counts: Array, classes: Sequence[str]) -> Figure:
    """Shares of each true class in percent; with names and numbers as far as there is room for them."""
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named, numbered = len(classes) <= 30, len(classes) <= 12
    figure, axes = new_figure("What the classifier mixes up", "called", "is", size=(5.2, 5.2))
    axes.grid(False)
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if named:
        names = [name[:14] for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    else:
        axes.set(xticks=[], yticks=[])
    if numbered:
        for row, column in np.argwhere(share >= 0.5):
            color = "white" if share[row, column] > 55 else "black"
            axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=7, color=color)
    else:
        figure.colorbar(shown, ax=axes, shrink=0.7, label="% of the class")
    return figure


def worst_confusions(counts: Array, classes: Sequence[str], how_many: int = 3) -> list[str]:
    """The most frequent ones in words: "cat called dog (21 %)"."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(classes), dtype=bool), 0.0, share)
    order = np.argsort(-wrong, axis=None, kind="stable")[:how_many]
    cells = [np.unravel_index(k, wrong.shape) for k in order]
    return [f"{classes[r]} called {classes[c]} ({100 * wrong[r, c]:.0f} %)" for r, c in cells if wrong[r, c] > 0]
