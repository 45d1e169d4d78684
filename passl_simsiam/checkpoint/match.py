"""Which layout a file's tensors follow, and which network they are: found from names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from passl_simsiam.checkpoint.layouts import (
    BACKBONES,
    COUNTER,
    DEPTHS,
    HINTS,
    IGNORED,
    KINDS,
    LAYOUTS,
    MLP,
    Framework,
    Layout,
    backbone_names,
    layout_of,
    mlp_names,
)
from passl_simsiam.errors import UserError


@dataclass(frozen=True)
class Match:
    """How a file's tensors map to ours.

    Attributes:
        layout, prefix, blocks: the layout, what stands before all its names, and its way of naming blocks.
        framework: of the tensors' names and orientation; a layout of torch's may come in a Paddle file.
        names: the file's name of each tensor that is kept -> (our name, kind of module).
        dropped: the file's name of each other tensor -> why it is left out.
        counters: our module's name -> the file's name of its counter of batches.
    """

    layout: Layout
    prefix: str
    blocks: str
    framework: Framework
    depth: int
    names: dict[str, tuple[str, str]]
    dropped: dict[str, str]
    counters: dict[str, str]

    def renamed(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The file's tensors in our names, oriented as in the file."""
        return {ours: tensors[name] for name, (ours, _) in self.names.items()}

    def ours(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The file's tensors in our names and orientation, as views."""
        turned = {name for name, (_, kind) in self.names.items() if kind == "linear" and self.framework == "torch"}
        return {
            ours: tensors[name].T if name in turned and tensors[name].ndim == 2 else tensors[name]
            for name, (ours, _) in self.names.items()
        }


def match(tensors: Mapping[str, np.ndarray], layout: str | None = None) -> Match:
    """The layout that explains every tensor.

    Args:
        layout: its name (see layout_of), where it is known; otherwise all are tried.

    Raises:
        UserError: no layout explains all tensors; the message names those that the nearest one leaves over.
    """
    framework: Framework = "paddle" if any(name.endswith("._mean") for name in tensors) else "torch"
    attempts = [
        attempt
        for candidate in (LAYOUTS.values() if layout is None else (layout_of(layout),))
        if layout is not None or candidate.framework == framework
        for attempt in _attempts(tensors, candidate, framework)
    ]
    if not attempts:
        kind = f"no ResNet in the layout {layout!r}" if layout else "no ResNet"
        raise UserError(f"there is {kind} among the {len(tensors)} tensors {_some(tensors)}")
    # Where several explain as much, the one that is usually found behind this prefix: only its name differs.
    best = min(attempts, key=lambda a: (len(_unexplained(tensors, a)), a.prefix != a.layout.wrapper))
    if left := _unexplained(tensors, best):
        hints = {hint for part, hint in HINTS.items() if any(part in name for name in left)}
        hint = f" ({'; '.join(sorted(hints))})" if hints else ""
        raise UserError(
            f"no rule explains {len(left)} of {len(tensors)} tensors: {_some(left)}{hint}; "
            f"the nearest layout is {best.layout.name!r} of a ResNet-{best.depth}"
        )
    return best


def _unexplained(tensors: Mapping[str, np.ndarray], attempt: Match) -> list[str]:
    known = attempt.names.keys() | attempt.dropped.keys() | set(attempt.counters.values())
    return sorted(tensors.keys() - known)


def _attempts(tensors: Mapping[str, np.ndarray], layout: Layout, framework: Framework) -> Iterator[Match]:
    """One match for each way of naming blocks and each place of the first convolution that fit a whole ResNet."""
    for blocks in layout.blocks:
        anchor = f"{layout.backbone}{BACKBONES[blocks][0]}.weight"
        prefixes = [
            name.removesuffix(anchor) for name, array in tensors.items() if name.endswith(anchor) and array.ndim == 4
        ]
        for prefix in sorted({p for p in prefixes if p == "" or p.endswith(".")}, key=len):
            for depth in DEPTHS:
                attempt = _Attempt(tensors, layout, framework, prefix)
                if attempt.backbone(depth, blocks):
                    attempt.heads()
                    yield Match(
                        layout, prefix, blocks, framework, depth, attempt.names, attempt.dropped, attempt.counters
                    )


class _Attempt:
    """The names of one layout with one prefix, looked up among the tensors."""

    def __init__(self, tensors: Mapping[str, np.ndarray], layout: Layout, framework: Framework, prefix: str) -> None:
        self.tensors, self.layout, self.prefix = tensors, layout, prefix
        self.column = 0 if framework == "paddle" else 1
        self.names: dict[str, tuple[str, str]] = {}
        self.dropped: dict[str, str] = {}
        self.counters: dict[str, str] = {}

    def backbone(self, depth: int, blocks: str) -> bool:
        """Note a whole ResNet's tensors; False, at the first that is missing, if there is none of this depth."""
        for kind, ours, theirs in backbone_names(depth, blocks):
            if not self.module(kind, f"backbone.{ours}", self.layout.backbone + theirs):
                return False
        return True

    def module(self, kind: str, ours: str, theirs: str, optional: tuple[str, ...] = ()) -> bool:
        """Note the tensors of one module; False if one that is not optional is missing."""
        whole = True
        for tensor in KINDS[kind]:
            name = f"{self.prefix}{theirs}.{tensor[self.column]}"
            if name in self.tensors:
                self.names[name] = f"{ours}.{tensor[0]}", kind
            elif tensor[0] not in optional:
                whole = False
        if kind == "bn" and (counter := f"{self.prefix}{theirs}.{COUNTER}") in self.tensors:
            self.counters[ours] = counter
        return whole

    def heads(self) -> None:
        """Projector, predictor and classifier, as far as they are there; then what is there for no use of ours."""
        layout = self.layout
        for mlp, ours in ((layout.neck, "neck."), (layout.head, "head.")):
            if mlp:
                self.mlp(mlp, ours)
        if layout.classifier and f"{self.prefix}{layout.classifier}.weight" in self.tensors:
            if any(ours.startswith("head.") for ours, _ in self.names.values()):
                for part in ("weight", "bias"):
                    self.drop(f"{layout.classifier}.{part}", "a classifier beside SimSiam's predictor, for monitoring")
            else:
                self.module("linear", "head", layout.classifier, optional=("bias",))
        for name in self.tensors:
            for end, why in IGNORED.items():
                if name.endswith(end):
                    self.dropped[name] = why
            for alias, original in layout.aliases.items():
                other = self.prefix + original + name.removeprefix(self.prefix + alias)
                if name.startswith(self.prefix + alias) and other in self.tensors:
                    if self.tensors[name].tobytes() != self.tensors[other].tobytes():
                        raise UserError(f"{name} and {other} should be the same tensor, but differ")
                    self.dropped[name] = f"the same tensor as {other}"

    def mlp(self, mlp: MLP, ours: str) -> None:
        places = [i for i in range(3) if any(self.has(f"{name}.weight") for name in mlp_names(mlp, i)[::2])]
        if self._skips_middle(mlp, places):
            for name in mlp_names(mlp, 1)[:2]:
                for part in ("weight", "bias", *(tensor[self.column] for tensor in KINDS["bn"]), COUNTER):
                    self.drop(f"{name}.{part}", "a layer that was never used: the projector has two")
            places.remove(1)
        for place, i in enumerate(places):
            linear, bn, bare = mlp_names(mlp, i)
            mean = f"{bn}.{KINDS['bn'][2][self.column]}"
            if self.has(mean):
                self.module("linear", f"{ours}{3 * place}", linear, optional=("bias",))
                self.module("bn", f"{ours}{3 * place + 1}", bn, optional=("weight", "bias"))
            else:
                self.module("linear", f"{ours}{3 * place}", bare, optional=("bias",))

    def _skips_middle(self, mlp: MLP, places: list[int]) -> bool:
        """PatrickHua's projector always holds three layers; where two are in use, the middle one has seen no batch."""
        if mlp.names != "layers" or places != [0, 1, 2]:
            return False
        first, middle = (self.tensors.get(f"{self.prefix}{mlp_names(mlp, i)[1]}.{COUNTER}") for i in (0, 1))
        return first is not None and middle is not None and bool(first.item() > 0 == middle.item())

    def has(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def drop(self, name: str, why: str) -> None:
        if self.has(name):
            self.dropped[self.prefix + name] = why


def _some(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
