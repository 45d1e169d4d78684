"""A run's folder without the run: random weights, saved as a task saves them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import paddle
from tiny import TINY, TINY_PRETRAINING

from passl_simsiam import build
from passl_simsiam.checkpoint import io
from passl_simsiam.config import load_config
from passl_simsiam.tasks.pretrained import Images

ROOT = Path(__file__).parents[2]


def save_untrained(folder: Path, task: str = "pt", *overrides: str, classes: list[str] | None = None) -> Path:
    """Save a checkpoint of a digits recipe (task "pt" or "lp") and return its run's folder."""
    tiny = TINY_PRETRAINING if task == "pt" else TINY
    config = load_config(ROOT / f"configs/simsiam_r18_{task}_digits.yaml", [*tiny, *overrides])
    images = Images(3, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3), classes or [str(digit) for digit in range(10)])
    paddle.seed(0)
    model = build.model(config, images, 16)
    for layer in model.sublayers():
        if hasattr(layer, "_variance"):  # statistics that matter: with those of the start, most features are 0
            layer._mean.set_value(paddle.normal(0.0, 0.1, layer._mean.shape))
            layer._variance.set_value(paddle.uniform(layer._variance.shape, min=0.5, max=2.0))
    state = {"step": 7, "epoch": 1, "images": 448, "metrics": {}, "best": None, "data": asdict(images)}
    state |= {"config": config.model_dump(mode="json")}
    io.save(folder, "epoch_0001", model=model.state_dict(), optimizer={}, state=state)
    return folder
