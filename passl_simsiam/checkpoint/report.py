"""What a conversion did, for people and as JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passl_simsiam.checkpoint.durable import replacing, write_bytes
from passl_simsiam.checkpoint.proof import Proof
from passl_simsiam.checkpoint.render import Fate
from passl_simsiam.errors import UserError

SUFFIXES = (".json", ".md")


@dataclass(frozen=True)
class Report:
    """Every tensor's fate, and the proof.

    Attributes:
        prefix: what was found in front of the source layout's names.
        architecture: our Model nodes, inferred from shapes.
        norms: 2-norm of the parameters of backbone, neck and head.
        velocities: tensors of the optimizer that were carried over.
        proof: of the outputs before and after; None where no network ran.
    """

    source: Path
    target: Path
    source_format: str
    target_format: str
    prefix: str
    architecture: Mapping[str, Mapping[str, Any]]
    fates: Sequence[Fate]
    norms: Mapping[str, float]
    velocities: int
    proof: Proof | None
    sha256: Mapping[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors met each fate."""
        return dict(Counter(fate.fate for fate in self.fates))

    @property
    def differences(self) -> Mapping[str, float]:
        """Largest relative difference of each output before and after; empty where no network ran."""
        return self.proof.differences if self.proof else {}

    def save(self, path: Path) -> None:
        """Write the report as JSON, or as Markdown to a file of that suffix. Raises UserError."""
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: a report is written as {' or '.join(SUFFIXES)}")
        content = asdict(self) | {"source": str(self.source), "target": str(self.target), "counts": self.counts}
        text = self._markdown() if path.suffix == ".md" else json.dumps(content, indent=1) + "\n"
        with replacing(path) as aside:
            write_bytes(aside, text.encode())

    def __str__(self) -> str:
        prefix = f", prefix {self.prefix!r}" if self.prefix else ""
        lines = [
            f"{self.source} ({self.source_format}{prefix}) -> {self.target} ({self.target_format})",
            *(f"  {part}: {show_node(node)}" for part, node in self.architecture.items()),
            "  tensors: "
            + ", ".join(f"{count} {fate}" for fate, count in self.counts.items())
            + "; 0 missing, 0 unused",
            *(f"    {row}" for row in self._table()),
        ]
        if self.velocities:
            lines.append(f"  momentum of {self.velocities} parameters carried over")
        lines += [
            "  norms: " + ", ".join(f"{part} {norm:.6g}" for part, norm in self.norms.items()),
            *(f"  sha256 of the {which}: {value}" for which, value in self.sha256.items()),
            "  every tensor was read back from the file and is equal bit for bit to what was meant to be there",
        ]
        if self.proof:
            shown = ", ".join(f"{output} {value:.1e}" for output, value in self.differences.items())
            lines.append(f"  outputs on fixed images, before ({self.proof.before}) and after ({self.proof.after}):")
            lines.append(f"    largest relative difference {shown}")
        else:
            lines.append("  no network was run")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """One line for each kind of module and fate, in columns; block numbers are #."""
        groups: dict[tuple[str, str, str, str], list[str]] = {}
        for fate in self.fates:
            key = (_pattern(fate.source), _pattern(fate.target), fate.fate, fate.why)
            groups.setdefault(key, []).append(_leaf(fate))
        rows = []
        for (source, target, what, why), leaves in groups.items():
            shown = ", ".join(dict.fromkeys(leaves))
            rows.append((source or "-", target or "-", f"{len(leaves)} {what}", shown + (f" ({why})" if why else "")))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        arrows = (" -> ", "  ", "  ")
        return [
            "".join(cell.ljust(width) + gap for cell, width, gap in zip(row, widths, arrows, strict=False)) + row[3]
            for row in rows
        ]

    def _markdown(self) -> str:
        rows = [f"| {fate.source} | {fate.target} | {fate.fate} | {fate.why} |" for fate in self.fates]
        table = ["| source | target | fate | why |", "|---|---|---|---|", *rows]
        return "\n".join(["# Conversion", "", "```", str(self), "```", "", "## Every tensor", "", *table, ""])


def _pattern(name: str) -> str:
    """A tensor's module with numbers left open, so that those of all blocks read alike."""
    return re.sub(r"\d+([a-z]\d*)?(?=\.|$)", "#", name.rpartition(".")[0])  # res4b22 of PaddleDetection too


def _leaf(fate: Fate) -> str:
    """What the tensor is in its module, and what it is called in the target where that is something else."""
    source, target = (name.rpartition(".")[2] for name in (fate.source, fate.target))
    return f"{source} as {target}" if source and target and source != target else source or target


def show_node(node: Mapping[str, Any]) -> str:
    """A Model node as a call of its constructor."""
    return f"{node['name']}(" + ", ".join(f"{key}={value}" for key, value in node.items() if key != "name") + ")"
