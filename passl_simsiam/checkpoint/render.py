"""Our weights in another layout: the names of the target, and what it takes where the projects' models differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from passl_simsiam.checkpoint.layouts import COUNTER, KINDS, MLP, Layout, backbone_names, mlp_names
from passl_simsiam.errors import UserError


@dataclass(frozen=True)
class Fate:
    """What became of one tensor: `source` and `target` are its names, empty where there is none."""

    source: str
    target: str
    fate: str  # copied, transposed, dropped, added, folded
    why: str = ""


class Renderer:
    """Writes weights in our names into a layout, with the first of its ways to name blocks.

    Args:
        weights: in our names and orientation.
        counts: batches that our batch norms have seen, as far as known.

    Attributes:
        tensors: the target's tensors by its names.
        fates: of every tensor of ours, and of those the target has besides.
    """

    def __init__(
        self, weights: Mapping[str, np.ndarray], layout: Layout, depth: int, counts: Mapping[str, int]
    ) -> None:
        self.tensors: dict[str, np.ndarray] = {}
        self.fates: list[Fate] = []
        self.modules: dict[str, str] = {}  # our batch norms -> the target's
        self._weights, self._layout = dict(weights), layout
        self._column = 0 if layout.framework == "paddle" else 1
        for kind, ours, theirs in backbone_names(depth, layout.blocks[0]):
            self._module(kind, f"backbone.{ours}", layout.backbone + theirs)
        self._mlp(layout.neck, "neck.", "projector")
        if "head.weight" in self._weights:
            self._classifier()
        else:
            self._mlp(layout.head, "head.", "predictor")
        self._counters(counts)
        for alias, original in layout.aliases.items():
            for name in [name for name in self.tensors if name.startswith(layout.wrapper + original)]:
                again = layout.wrapper + alias + name.removeprefix(layout.wrapper + original)
                self.tensors[again] = self.tensors[name]
                self.fates.append(Fate("", again, "added", f"again, as {original}*"))

    def _counters(self, counts: Mapping[str, int]) -> None:
        """Give torch's batch norms their counters, 0 where unknown."""
        for ours, theirs in self.modules.items():
            name = f"{ours}.{COUNTER}"
            if self._layout.framework == "paddle":
                if ours in counts:
                    self.fates.append(Fate(name, "", "dropped", "Paddle counts no batches"))
                continue
            self.tensors[f"{theirs}.{COUNTER}"] = np.array(counts.get(ours, 0), "int64")
            counter = f"{theirs}.{COUNTER}"
            self.fates.append(
                Fate(name, counter, "copied") if ours in counts else Fate("", counter, "added", "0: not known")
            )

    def _module(self, kind: str, ours: str, theirs: str) -> None:
        theirs = self._layout.wrapper + theirs
        if kind == "bn":
            self.modules[ours] = theirs
        for tensor in KINDS[kind]:
            name, target = f"{ours}.{tensor[0]}", f"{theirs}.{tensor[self._column]}"
            array = self._weights.pop(name, None)
            if array is not None:
                turned = kind == "linear" and array.ndim == 2 and self._column == 1
                self.tensors[target] = array.T if turned else array
                self.fates.append(Fate(name, target, "transposed" if turned else "copied"))

    def _classifier(self) -> None:
        if self._layout.classifier is None:
            self._drop("head.", f"{self._layout.name} has no place for a classifier")
        else:
            self._module("linear", "head", self._layout.classifier)

    def _drop(self, prefix: str, why: str) -> None:
        for name in [name for name in self._weights if name.startswith(prefix)]:
            del self._weights[name]
            self.fates.append(Fate(name, "", "dropped", why))

    def _mlp(self, mlp: MLP | None, ours: str, part: str) -> None:
        if mlp is None:
            self._drop(ours, f"{self._layout.name} has no place for a {part}")
            return
        count = sum(f"{ours}{3 * i}.weight" in self._weights for i in range(3))
        # A projector of two layers is the first and the last of three in names that count layers.
        places = [0, 2] if mlp.names == "layers" and part == "projector" and count == 2 else list(range(count))
        for i, place in enumerate(places):
            linear, bn = f"{ours}{3 * i}", f"{ours}{3 * i + 1}"
            normed, last = f"{bn}._mean" in self._weights, i == count - 1
            if self._layout.name != "ours":
                self._fit_bias(
                    linear, bn, normed, wanted=mlp.bias == "all" or (last and (mlp.bias == "last" or not normed))
                )
                if normed and last:
                    self._fit_affine(bn, mlp.affine)
            elif last and normed and "head.0.weight" in self._weights:
                self._fit_bias(linear, bn, normed, wanted=True)
            their_linear, their_bn, bare = mlp_names(mlp, place)
            self._module("linear", linear, their_linear if normed else bare)
            if normed:
                self._module("bn", bn, their_bn)

    def _fit_bias(self, linear: str, bn: str, normed: bool, *, wanted: bool) -> None:
        """Add a bias of zeros where the target has one, or move one that it lacks into the batch norm's mean."""
        bias = self._weights.get(f"{linear}.bias")
        if bias is None and wanted:
            weight = self._weights[f"{linear}.weight"]
            self._weights[f"{linear}.bias"] = np.zeros(weight.shape[1], weight.dtype)
            self.fates.append(Fate("", f"{linear}.bias", "added", "zeros; the source's layer has no bias"))
        elif bias is not None and not wanted:
            del self._weights[f"{linear}.bias"]
            if not bias.any():
                self.fates.append(Fate(f"{linear}.bias", "", "dropped", "all zeros; the target's layer has no bias"))
                return
            mean = self._weights[f"{bn}._mean"]
            self._weights[f"{bn}._mean"] = (mean.astype("float64") - bias).astype(mean.dtype)
            why = "the target's layer has no bias: subtracted from the running mean behind it, which is the same map"
            self.fates.append(Fate(f"{linear}.bias", "", "folded", why))

    def _fit_affine(self, bn: str, wanted: bool) -> None:
        """Add weight 1 and bias 0 where the target's last batch norm has them, or leave them out if they are that."""
        weight, bias = self._weights.get(f"{bn}.weight"), self._weights.get(f"{bn}.bias")
        if weight is None and wanted:
            mean = self._weights[f"{bn}._mean"]
            self._weights |= {f"{bn}.weight": np.ones_like(mean), f"{bn}.bias": np.zeros_like(mean)}
            self.fates.append(
                Fate("", f"{bn}.weight, bias", "added", "ones and zeros; the source's batch norm has none")
            )
        elif weight is not None and bias is not None and not wanted:
            if (weight != 1).any() or bias.any():
                raise UserError(
                    f"{bn} has a learned weight and bias, and the last batch norm of {self._layout.name} has none: "
                    "the projector cannot be converted without changing what it computes"
                )
            self._drop(f"{bn}.weight", "all ones, as in the target")
            self._drop(f"{bn}.bias", "all zeros, as in the target")


def parameters(names: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """(file's name, our name, kind) of what an optimizer sees, in the file's order: no running statistics."""
    for name, (ours, kind) in names.items():
        if not ours.endswith(("._mean", "._variance")):
            yield name, ours, kind
