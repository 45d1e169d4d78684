"""A run's weights once more in the format of Paddle's own tools."""

from __future__ import annotations

from pathlib import Path

from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.tensors import read_tensors
from passl_simsiam.checkpoint.writers import write_pdparams

NAME = "model.pdparams"


def write_beside(run: Path) -> Path:
    """Write the weights of a run's best checkpoint, or else of its latest, beside model.safetensors for `paddle.load`.

    Names are those of the model (`backbone.conv1.weight`, ...), for its `set_state_dict`. Once, at a run's end: it
    doubles what a save writes. What a checkpoint is read from stays model.safetensors.

    Returns:
        The file, model.pdparams in the checkpoint's folder.

    Raises:
        UserError: there is no checkpoint, or the disk refuses.
    """
    best = io.pointed(run / io.FOLDER, "best")
    checkpoint = io.find(run, "best" if best else "latest")
    write_pdparams(checkpoint / NAME, read_tensors(checkpoint / io.MODEL))
    return checkpoint / NAME
