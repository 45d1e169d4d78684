"""What a conversion did, for people and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passl_simsiam.checkpoint.durable import replacing, write_bytes
from passl_simsiam.checkpoint.render import Fate


@dataclass(frozen=True)
class Report:
    """Every tensor's fate, and the proof.

    Attributes:
        prefix: what was found in front of the source layout's names.
        architecture: our Model nodes, inferred from shapes.
        norms: 2-norm of the parameters of backbone, neck and head.
        differences: largest relative difference of each output before and after; empty where no network ran.
    """

    source: Path
    target: Path
    source_format: str
    target_format: str
    prefix: str
    architecture: Mapping[str, Mapping[str, Any]]
    fates: Sequence[Fate]
    norms: Mapping[str, float]
    differences: Mapping[str, float]
    sha256: Mapping[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors met each fate."""
        return dict(Counter(fate.fate for fate in self.fates))

    def save(self, path: Path) -> None:
        """Write the report as JSON. Raises UserError when the system refuses."""
        content = asdict(self) | {"source": str(self.source), "target": str(self.target), "counts": self.counts}
        with replacing(path) as aside:
            write_bytes(aside, (json.dumps(content, indent=1) + "\n").encode())

    def __str__(self) -> str:
        prefix = f", prefix {self.prefix!r}" if self.prefix else ""
        lines = [
            f"{self.source} ({self.source_format}{prefix}) -> {self.target} ({self.target_format})",
            *(f"  {part}: {show_node(node)}" for part, node in self.architecture.items()),
            "  tensors: " + ", ".join(f"{count} {fate}" for fate, count in self.counts.items()),
            *self._reasons(),
            "  norms: " + ", ".join(f"{part} {norm:.6g}" for part, norm in self.norms.items()),
            *(f"  sha256 of the {which}: {value}" for which, value in self.sha256.items()),
        ]
        if self.differences:
            shown = ", ".join(f"{output} {value:.1e}" for output, value in self.differences.items())
            lines.append(f"  largest relative difference of outputs: {shown}")
        else:
            lines.append("  every tensor was read back and compared; no network was run")
        return "\n".join(lines)

    def _reasons(self) -> list[str]:
        """One line for each reason, with the first tensor that it is about."""
        groups: dict[tuple[str, str], list[Fate]] = {}
        for fate in self.fates:
            if fate.why:
                groups.setdefault((fate.fate, fate.why), []).append(fate)
        lines = []
        for (what, why), fates in groups.items():
            others = f" and {len(fates) - 1} others" if len(fates) > 1 else ""
            lines.append(f"    {what} {fates[0].source or fates[0].target}{others}: {why}")
        return lines


def show_node(node: Mapping[str, Any]) -> str:
    """A Model node as a call of its constructor."""
    return f"{node['name']}(" + ", ".join(f"{key}={value}" for key, value in node.items() if key != "name") + ")"
