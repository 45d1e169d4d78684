"""Pictures of a run: its curves from metrics.jsonl, and the view pairs it learns from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
Records = Sequence[Mapping[str, Any]]

THUMBNAIL = 96  # pixels a view is shown at
SMOOTH_ABOVE = 200  # records from which a running mean is drawn over the points
BLUE, ORANGE, GREY = "#1f5fa8", "#d9822b", "#777777"
PAPER = 228  # grey around views: many images have a white ground


def view_grid(views: Sequence[Array], *, count: int = 24, columns: int = 4) -> Array:
    """Several images, each as its views side by side.

    Args:
        views: two or more arrays uint8 [n, H, W, C], C = 1 or 3, the same images in each.
        count: images to show, at most.
        columns: images in a row.

    Returns:
        uint8 [height, width, 3].
    """
    images = [np.hstack([_cell(view[i], gap=2) for view in views]) for i in range(min(count, len(views[0])))]
    if not images:
        raise ValueError("no views to show")
    images = [np.pad(image, ((0, 10), (0, 10), (0, 0)), constant_values=PAPER) for image in images]
    images += [np.full_like(images[0], PAPER)] * (-len(images) % columns)
    return np.vstack([np.hstack(images[row : row + columns]) for row in range(0, len(images), columns)])


def _cell(view: Array, gap: int) -> Array:
    return np.pad(thumbnail(view, THUMBNAIL), ((0, gap), (0, gap), (0, 0)), constant_values=PAPER)


def thumbnail(image: Array, side: int) -> Array:
    """A uint8 image [H, W, C], C = 1 or 3, as uint8 [side, side, 3]."""
    from PIL import Image

    rgb = Image.fromarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)
    # Small images keep their pixels visible; large ones are reduced without aliasing.
    method = Image.Resampling.NEAREST if rgb.height < side else Image.Resampling.BOX
    return np.asarray(rgb.resize((side, side), method))


def save_image(image: Array, path: Path) -> None:
    """Write a uint8 image [H, W, 3] as PNG."""
    from PIL import Image

    Image.fromarray(image).save(path)


def series(records: Records, key: str, x: str = "step") -> tuple[Array, Array]:
    """The finite values of `key` and where they were recorded, both float64 [n]."""
    points = [(r[x], r[key]) for r in records if r.get(key) is not None and r.get(x) is not None]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def loss_curve(records: Records) -> Figure | None:
    """`train/loss` by step; None without any."""
    steps, loss = series(records, "train/loss")
    if not len(steps):
        return None
    figure, axes = new_figure("Training loss", "step", "loss")
    _line(axes, steps, loss, "loss", BLUE)
    return figure


def rate_curves(records: Records) -> Figure | None:
    """`train/lr` and `train/lr_predictor` by step; None without any."""
    figure, axes = new_figure("Learning rates", "step", "learning rate")
    for key, label, color, style in (
        ("train/lr", "encoder (schedule)", BLUE, "-"),
        ("train/lr_predictor", "predictor", ORANGE, "--"),
    ):
        steps, rate = series(records, key)
        if len(steps):
            axes.plot(steps, rate, style, label=label, color=color, marker="o" if len(steps) == 1 else "")
    if not axes.lines:
        return None
    axes.set_ylim(bottom=0)
    _legend(figure)
    return figure


def std_curve(records: Records, dim: int | None) -> Figure | None:
    """`health/std` by step, with the line 1/sqrt(`dim`) of evenly spread directions; None without any."""
    steps, std = series(records, "health/std")
    if not len(steps):
        return None
    figure, axes = new_figure("Spread of the embeddings z / |z|", "step", "standard deviation a channel")
    _line(axes, steps, std, "measured", BLUE)
    if dim:
        axes.axhline(1 / math.sqrt(dim), color=GREY, linestyle="--", label=f"evenly spread: 1/√{dim}")
    axes.set_ylim(0, 1.2 * max(std.max(), 1 / math.sqrt(dim) if dim else 0, 1e-9))
    _legend(figure)
    return figure


def rank_curve(records: Records) -> Figure | None:
    """`health/rank` by step; None without any."""
    steps, rank = series(records, "health/rank")
    if not len(steps):
        return None
    figure, axes = new_figure("Effective rank of the features", "step", "effective rank")
    axes.plot(steps, rank, color=BLUE, marker="o", markersize=3)
    axes.set_ylim(bottom=0)
    return figure


def accuracy_curve(records: Records, key: str, title: str, levels: Mapping[str, float]) -> Figure | None:
    """An accuracy by epoch, in percent, with a dashed line for each of `levels` (fractions of 1); None without any."""
    epochs, accuracy = series(records, key, "epoch")
    if not len(epochs):
        return None
    figure, axes = new_figure(title, "epoch", "%")
    axes.plot(epochs, 100 * accuracy, color=BLUE, marker="o", markersize=3, label="this run")
    for (name, level), style in zip(levels.items(), ("--", ":", "-."), strict=False):
        axes.axhline(100 * level, color=GREY, linestyle=style, label=f"{name}: {100 * level:.1f}")
    _legend(figure)
    return figure


def new_figure(title: str, x_label: str, y_label: str, size: tuple[float, float] = (5.2, 3.4)) -> tuple[Figure, Axes]:
    """A figure without pyplot, which would keep it for ever and may look for a display.

    Args:
        size: inches, small ones: the letters must be readable on a telephone.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=size, dpi=180, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def pixels(figure: Figure) -> Array:
    """A figure as a uint8 image [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _line(axes: Axes, x: Array, y: Array, label: str, color: str) -> None:
    """A noisy curve; of many points a running mean over a fiftieth of them stands out before the points."""
    if len(x) <= SMOOTH_ABOVE:
        axes.plot(x, y, color=color, label=label, marker="o" if len(x) == 1 else "")
        return
    axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
    width = len(x) // 50
    sums = np.cumsum(np.insert(y, 0, 0.0))
    centres = x[width // 2 : width // 2 + len(x) - width + 1]
    axes.plot(centres, (sums[width:] - sums[:-width]) / width, color=color, label=f"{label} (running mean)")


def _legend(figure: Figure) -> None:
    """Below the axes, where it hides nothing; one line alone needs none."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
