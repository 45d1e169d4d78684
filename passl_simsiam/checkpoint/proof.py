"""That two sets of weights compute the same: a ResNet with projector and predictor, written out for the purpose.

The same few lines run on torch's functions and on Paddle's, so the side that came from torch is computed by torch where
it is installed, and the side that was written by the model that will use it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from passl_simsiam.checkpoint.layouts import DEPTHS
from passl_simsiam.errors import UserError

TOLERANCE = 1e-4
OUTPUTS = ("backbone", "neck", "head")
Weights = Mapping[str, np.ndarray]
Nodes = Mapping[str, Mapping[str, Any]]


def prover(
    build: Callable[[Nodes, Weights], Any] | None = None,
) -> Callable[[Weights, Weights, Nodes], dict[str, float]]:
    """What `convert` takes as `prove`.

    Args:
        build: makes a model with layers `backbone`, `neck` and `head` (those in the nodes) and applies the weights to
            it; a UserError from it means that our classes cannot hold this network, which is then computed here.

    The function it returns raises UserError when an output differs by more than TOLERANCE of its largest value.
    """

    def prove(before: Weights, after: Weights, nodes: Nodes) -> dict[str, float]:
        images = fixed_images(nodes)
        backend = "torch" if importlib.util.find_spec("torch") else "paddle"
        expected = outputs(before, nodes, images, backend)
        found = _model_outputs(build, nodes, after, images) or outputs(after, nodes, images, "paddle")
        differences = {}
        for name in expected.keys() & found.keys():
            scale = float(np.abs(expected[name]).max()) or 1.0
            differences[name] = float(np.abs(expected[name] - found[name]).max()) / scale
            if not differences[name] <= TOLERANCE:
                raise UserError(
                    f"the converted {name} differs by {differences[name]:.1e} from the original: not converted"
                )
        return {name: differences[name] for name in OUTPUTS if name in differences}

    return prove


def fixed_images(nodes: Nodes) -> np.ndarray:
    """Four images of noise, the same each time: float32 [4, C, H, W], 64 pixels a side, 32 for the CIFAR stem."""
    size = 32 if nodes["backbone"]["stem"] == "cifar" else 64
    shape = (4, nodes["backbone"]["in_channels"], size, size)
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def outputs(weights: Weights, nodes: Nodes, images: np.ndarray, backend: str) -> dict[str, np.ndarray]:
    """Features, projection and prediction (or logits) in evaluation mode, float32.

    Args:
        weights: in our names and orientation. backend: "torch" or "paddle".
    """
    library, F = importlib.import_module(backend), importlib.import_module(f"{backend}.nn.functional")
    tensor = library.from_numpy if backend == "torch" else library.to_tensor

    def get(name: str) -> Any:
        return tensor(_float32(weights[name])) if name in weights else None

    def conv(x: Any, name: str, stride: int) -> Any:
        weight = get(f"{name}.weight")
        return F.conv2d(x, weight, None, stride, weight.shape[2] // 2)

    def bn(x: Any, name: str) -> Any:
        return F.batch_norm(x, *(get(f"{name}.{part}") for part in ("_mean", "_variance", "weight", "bias")))

    def mlp(x: Any, prefix: str) -> Any:
        for i in range(3):
            if f"{prefix}{3 * i}.weight" not in weights:
                break
            x = F.relu(x) if i else x
            x = x @ get(f"{prefix}{3 * i}.weight")
            bias = get(f"{prefix}{3 * i}.bias")
            x = x if bias is None else x + bias
            x = bn(x, f"{prefix}{3 * i + 1}") if f"{prefix}{3 * i + 1}._mean" in weights else x
        return x

    imagenet = nodes["backbone"]["stem"] == "imagenet"
    depths, bottleneck = DEPTHS[int(nodes["backbone"]["name"].removeprefix("ResNet"))]
    with library.no_grad():
        x = F.relu(bn(conv(tensor(images), "backbone.conv1", 2 if imagenet else 1), "backbone.bn1"))
        x = F.max_pool2d(x, 3, 2, 1) if imagenet else x
        for s, count in enumerate(depths, start=1):
            for b in range(count):
                block, stride = f"backbone.layer{s}.{b}", 2 if s > 1 and b == 0 else 1
                y = x
                for n in range(1, 4 if bottleneck else 3):
                    y = F.relu(y) if n > 1 else y
                    y = conv(y, f"{block}.conv{n}", stride if n == (2 if bottleneck else 1) else 1)
                    y = bn(y, f"{block}.bn{n}")
                if f"{block}.downsample.0.weight" in weights:
                    x = bn(conv(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
                x = F.relu(x + y)
        results = {"backbone": x.mean((2, 3))}
        if "neck" in nodes:
            results["neck"] = mlp(results["backbone"], "neck.")
        if "head.weight" in weights:
            logits = results["backbone"] @ get("head.weight")
            results["head"] = logits + get("head.bias") if "head.bias" in weights else logits
        elif "head" in nodes:
            results["head"] = mlp(results["neck"], "head.")
    return {name: value.numpy() for name, value in results.items()}


def _model_outputs(
    build: Callable[[Nodes, Weights], Any] | None, nodes: Nodes, weights: Weights, images: np.ndarray
) -> dict[str, np.ndarray]:
    """The outputs of the model that `build` makes; nothing where it cannot."""
    if build is None:
        return {}
    import paddle

    try:
        model = build(nodes, weights)
    except UserError:
        return {}
    model.eval()
    with paddle.no_grad():
        x = features = model.backbone(paddle.to_tensor(images))
        results = {"backbone": features}
        for part in ("neck", "head"):
            if part in nodes:
                x = results[part] = getattr(model, part)(x)
    return {name: value.astype("float32").numpy() for name, value in results.items()}


def _float32(array: np.ndarray) -> np.ndarray:
    """Any of our dtypes as float32; uint16 is bfloat16, the upper half of a float32."""
    if array.dtype == np.uint16:
        return (array.astype("uint32") << 16).view("float32")
    return np.array(array, dtype="float32", order="C")
