"""What a weight file is, without running anything from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.checkpoint.architecture import architecture
from passl_simsiam.checkpoint.convert import open_source
from passl_simsiam.checkpoint.durable import digest
from passl_simsiam.checkpoint.match import match
from passl_simsiam.checkpoint.report import show_node
from passl_simsiam.errors import UserError


@dataclass(frozen=True)
class Description:
    """What `inspect` found.

    Attributes:
        kind: the container: "safetensors", "pickle" (Paddle), "torch" or "torch-legacy".
        layout, prefix, architecture: as a conversion would take it; empty where no layout explains the tensors, and
            then `problem` says why.
        dtypes: number of tensors of each; bfloat16 shows as such.
        beside: what else lies in the file, by name: a number or text as it is, anything else by its type.
    """

    path: Path
    kind: str
    size: int
    sha256: str
    tensors: int
    dtypes: Mapping[str, int]
    layout: str
    prefix: str
    architecture: Mapping[str, Mapping[str, Any]]
    problem: str
    names: tuple[str, ...]
    beside: Mapping[str, Any]

    def __str__(self) -> str:
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        lines = [
            f"{self.path}: {self.kind}, {self.size:,} bytes, sha256 {self.sha256}",
            f"  {self.tensors} tensors ({dtypes})",
        ]
        if self.layout:
            lines.append(f"  layout {self.layout}" + (f", prefix {self.prefix!r}" if self.prefix else ""))
            lines += [f"  {part}: {show_node(node)}" for part, node in self.architecture.items()]
        else:
            lines += [f"  {self.problem}", f"  names: {', '.join(self.names)}, ..."]
        if self.beside:
            lines.append("  beside them: " + ", ".join(f"{key} = {value}" for key, value in self.beside.items()))
        return "\n".join(lines)


def inspect(source: str | Path) -> Description:
    """Describe a weight file or a checkpoint of ours. Raises UserError when it cannot be read."""
    opened = open_source(source)
    layout = prefix = problem = ""
    nodes: Mapping[str, Mapping[str, Any]] = {}
    try:
        found = match(opened.tensors)
        nodes = architecture(found.ours(opened.tensors), found.depth)
        layout, prefix = f"{found.layout.name}/{found.blocks}", found.prefix
    except UserError as error:
        problem = str(error)
    return Description(
        path=opened.path,
        kind=opened.kind,
        size=opened.path.stat().st_size,
        sha256=digest(opened.path),
        tensors=len(opened.tensors),
        dtypes=Counter(_dtype(array) for array in opened.tensors.values()),
        layout=layout,
        prefix=prefix,
        architecture=nodes,
        problem=problem,
        names=tuple(list(opened.tensors)[:5]),
        beside={str(key): _brief(value) for key, value in opened.beside.items()},
    )


def _dtype(array: np.ndarray) -> str:
    return "bfloat16" if array.dtype == np.uint16 else array.dtype.name


def _brief(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return f"array {list(value.shape)}"
    if isinstance(value, int | float | str) and len(str(value)) <= 60:
        return value
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, dict | list | tuple) else type(value).__name__
