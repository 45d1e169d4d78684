"""Overrides that make a digits recipe small enough for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

TINY = [
    "Global.epochs=2",
    "Global.print_batch_step=5",
    "Global.save_every_epochs=1",
    "Model.backbone.width=4",
    "Evaluation.pictures=false",
]
TINY_PRETRAINING = [*TINY, "Model.neck.hidden_channels=32", "Model.neck.out_channels=32", "Evaluation.few_label=null"]

Run = Callable[..., Path]
