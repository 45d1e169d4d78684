"""What a classifier says of each image, as a table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from passl_simsiam.checkpoint import durable
from passl_simsiam.data.base import Dataset
from passl_simsiam.data.loader import Loader
from passl_simsiam.errors import UserError
from passl_simsiam.log import RunLog
from passl_simsiam.tasks.images import encoder
from passl_simsiam.tasks.pretrained import Pretrained


def predict_to(
    out: Path, network: Pretrained, data: Dataset, *, top: int, batch_size: int, num_workers: int, log: RunLog
) -> int:
    """Write the `top` most probable classes of every image that can be read.

    Args:
        out: the CSV file: path, class_1, probability_1, class_2, ...; the most probable first. It appears when it is
            complete.

    Returns:
        The number of images that could not be read; each is named in the log.

    Raises:
        UserError: no classifier, fewer than `top` classes, no image that can be read, `out` cannot be written.
    """
    layer, classes = network.logits(), network.images.classes
    assert classes is not None  # a classifier's head was sized by them
    if not 1 <= top <= len(classes):
        raise UserError(f"--top {top}: the classifier knows {len(classes)} classes")
    encode = encoder(layer, network.images.mean, network.images.std)
    loader = Loader(
        data,
        network.transform,
        batch_size=batch_size,
        shuffle=False,
        drop_last=False,
        seed=0,
        num_workers=num_workers,
        max_bad_fraction=1.0,
    )
    with (
        durable.replacing(out) as aside,
        loader,
        aside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        log.progress(len(loader), label="predict") as bar,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", *(f"{what}_{k}" for k in range(1, top + 1) for what in ("class", "probability"))])
        for step, batch in enumerate(loader.epoch(0)):
            if len(batch["index"]):
                probabilities = softmax(encode(batch["views"][0]))
                for index, row in zip(batch["index"].tolist(), probabilities, strict=True):
                    best = np.argsort(-row, kind="stable")[:top]
                    cells = [cell for k in best for cell in (classes[k], f"{row[k]:.6f}")]
                    table.writerow([data.name(index), *cells])
            bar.update(images=loader.images(step), waited=loader.waited)
        if len(loader.bad) == len(data):
            raise loader.bad.error("and there is no other")
    return len(loader.bad)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 [n, C] from logits [n, C]."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
