"""Small networks of ours as arrays, and files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle

from passl_simsiam.checkpoint.safe import read
from passl_simsiam.checkpoint.tensors import write_tensors
from passl_simsiam.checkpoint.weights import named_tensors

Arrays = dict[str, np.ndarray]


def ours(depth: int = 18, *, width: int = 4, neck: bool = True, stem: str = "cifar", seed: int = 0) -> Arrays:
    """Weights of our own model, with batch norms and frozen biases of random content."""
    from passl_simsiam.registry import BACKBONES, HEADS, NECKS

    paddle.seed(seed)
    model = paddle.nn.Layer()
    model.backbone = BACKBONES.get(f"ResNet{depth}")(width=width, stem=stem)
    if neck:
        model.neck = NECKS.get("SimSiamProjector")(model.backbone.out_channels, 10, hidden_channels=12)
        model.head = HEADS.get("SimSiamPredictor")(10, 6)
    else:
        model.head = HEADS.get("LinearClassifier")(model.backbone.out_channels, 7)
    rng = np.random.default_rng(seed)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name, array in weights.items():
        if array.ndim == 1:
            weights[name] = rng.normal(1 if name.endswith("_variance") else 0.1, 0.1, array.shape).astype("float32")
    return weights


def same(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def save(path: Path, weights: Arrays) -> Path:
    write_tensors(path, weights)
    return path


def raw(path: Path) -> Arrays:
    """A file's tensors by the names in the file."""
    return named_tensors(read(path).tree, path)


def official(weights: Arrays) -> Arrays:
    """Our weights under official names, made here and not by the converter."""
    renamed = {}
    for name, array in weights.items():
        name = name.replace("backbone.", "encoder.").replace("neck.", "encoder.fc.").replace("head.", "predictor.")
        name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        renamed[f"module.{name}"] = np.ascontiguousarray(array.T) if array.ndim == 2 else array
    return renamed
