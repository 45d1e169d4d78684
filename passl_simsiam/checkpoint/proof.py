"""That a converted file computes what the original computes, shown by running both on fixed images.

Each side starts from its file's own tensors, linear weights oriented as they lie there, so that a wrong transposition
shows. A file of torch's is computed by torch where that is installed, our weights by the model that will use them, and
what is left by a ResNet with projector and predictor written out here for the purpose: the same few lines run on
torch's functions and on Paddle's.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.checkpoint import network
from passl_simsiam.checkpoint.layouts import DEPTHS, Framework
from passl_simsiam.errors import UserError
from passl_simsiam.runtime import prepare_environment

TOLERANCE = 1e-4
OUTPUTS = ("backbone", "neck", "head")
Weights = Mapping[str, np.ndarray]
Nodes = network.Nodes


@dataclass(frozen=True)
class Side:
    """The weights of one file.

    Attributes:
        load: reads them, by our names; only then are they in memory, and one side's at a time.
        framework: whose orientation linear weights have: [in, out] in Paddle, [out, in] in torch.
        path: a file for torch.load to open in place of `load`, and `names` in it -> ours.
    """

    load: Callable[[], Weights]
    framework: Framework
    path: Path | None = None
    names: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Proof:
    """What running both sides showed.

    Attributes:
        differences: of each output, the largest, relative to the output's largest value.
        before, after: what computed each side.
    """

    differences: Mapping[str, float]
    before: str
    after: str


def prove(before: Side, after: Side, nodes: Nodes) -> Proof | None:
    """Run both sides on `fixed_images`; None where neither torch nor Paddle is installed.

    Raises:
        UserError: an output differs by more than TOLERANCE of its largest value, or torch cannot load the file.
    """
    if not _available():
        return None
    images = fixed_images(nodes)
    (expected, ran_before), (found, ran_after) = (_run(side, nodes, images) for side in (before, after))
    differences = {}
    for name in (name for name in OUTPUTS if name in expected and name in found):  # the target may hold less
        scale = float(np.abs(expected[name]).max()) or 1.0
        differences[name] = float(np.abs(expected[name] - found[name]).max()) / scale
        if not differences[name] <= TOLERANCE:
            raise UserError(f"the converted {name} differs by {differences[name]:.1e} from the original: not converted")
    return Proof(differences, ran_before, ran_after)


def _available() -> list[str]:
    return [library for library in ("torch", "paddle") if importlib.util.find_spec(library)]


def _run(side: Side, nodes: Nodes, images: np.ndarray) -> tuple[dict[str, np.ndarray], str]:
    """A side's outputs, and what computed them."""
    available = _available()
    # Before the first import of Paddle, which is 280 MB that a conversion would not need; threads need memory too.
    prepare_environment(threads=1)
    backend = side.framework if side.framework in available else available[0]
    version = getattr(importlib.import_module(backend), "__version__", "")
    if side.framework == backend == "paddle":
        try:
            weights = side.load()
            model = network.build(_held(nodes, weights), weights)
            return network.outputs(model, images), f"our model, PaddlePaddle {version}"
        except UserError:
            pass  # a network that conversion knows and our classes do not
    if backend == "torch" and side.path and side.names:
        weights = _loaded_by_torch(side.path, side.names)
        how = "functions on what torch.load gives"
    else:
        weights, how = side.load(), "functions on the file's tensors"
    return outputs(weights, _held(nodes, weights), images, backend, side.framework), f"{backend} {version}, {how}"


def _held(nodes: Nodes, weights: Weights) -> Nodes:
    """The parts of a network that a file holds."""
    return {part: node for part, node in nodes.items() if any(name.startswith(f"{part}.") for name in weights)}


def _loaded_by_torch(path: Path, names: Mapping[str, str]) -> Weights:
    """The file's tensors by our names, float32, as torch itself reads it. Raises UserError."""
    torch = importlib.import_module("torch")
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
        tree = tree.get("state_dict", tree)
        return {ours: tree[name].float().numpy() for name, ours in names.items()}
    except Exception as error:
        raise UserError(f"torch cannot load the converted file: {str(error).splitlines()[0]}") from error


def fixed_images(nodes: Nodes) -> np.ndarray:
    """Four images of noise, the same each time: float32 [4, C, H, W], 64 pixels a side, 32 for the CIFAR stem."""
    size = 32 if nodes["backbone"]["stem"] == "cifar" else 64
    shape = (4, nodes["backbone"]["in_channels"], size, size)
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def outputs(
    weights: Weights, nodes: Nodes, images: np.ndarray, backend: str, orientation: Framework = "paddle"
) -> dict[str, np.ndarray]:
    """Features, projection and prediction (or logits) in evaluation mode, float32.

    Args:
        weights: in our names. backend: "torch" or "paddle". orientation: of linear weights.
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

    def linear(x: Any, name: str) -> Any:
        weight, bias = get(f"{name}.weight"), get(f"{name}.bias")
        y = x @ (weight.T if orientation == "torch" else weight)
        return y if bias is None else y + bias

    def mlp(x: Any, prefix: str) -> Any:
        for i in range(3):
            if f"{prefix}{3 * i}.weight" not in weights:
                break
            x = linear(F.relu(x) if i else x, f"{prefix}{3 * i}")
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
            results["head"] = linear(results["backbone"], "head")
        elif "head" in nodes:
            results["head"] = mlp(results["neck"], "head.")
    return {name: value.numpy() for name, value in results.items()}


def _float32(array: np.ndarray) -> np.ndarray:
    """Any of our dtypes as float32; uint16 is bfloat16, the upper half of a float32."""
    if array.dtype == np.uint16:
        return (array.astype("uint32") << 16).view("float32")
    return np.array(array, dtype="float32", order="C")
