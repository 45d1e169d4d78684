"""The list of published weights: models.yaml beside this module, which the package and the checkout share."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import yaml
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict, Field

from passl_simsiam.errors import UserError, suggest

MANIFEST = Path(__file__).with_name("models.yaml")


class Entry(BaseModel):
    """One file of published weights.

    Attributes:
        content: what it holds: a pretraining's model, or a backbone with a classifier.
        dataset, epochs, batch_size: of the pretraining.
        top1: accuracy of the linear probe, a fraction of 1.
        format: of checkpoint.layouts.LAYOUTS.
        size: bytes. sha256: all of it, or the beginning that is known. None: nobody has published it.
        page: where the publisher describes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    content: Literal["pretraining", "linear probe"]
    method: str
    architecture: str
    dataset: str
    epochs: Annotated[int, Gt(0)]
    batch_size: Annotated[int, Gt(0)]
    top1: Annotated[float, Gt(0), Lt(1)] | None
    format: str
    url: Annotated[str, Field(pattern=r"^https?://[^/]+/.*[^/]$")]
    size: Annotated[int, Ge(1)] | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None
    licence: str
    page: str

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]

    def __str__(self) -> str:
        top1 = "" if self.top1 is None else f", linear top-1 {100 * self.top1:.1f} %"
        return (
            f"{self.method}, {self.architecture}, {self.dataset}, {self.epochs} epochs, batch {self.batch_size}, "
            f"{self.content}{top1}; {self.licence}"
        )


def catalog() -> dict[str, Entry]:
    """All entries by name."""
    return _read(MANIFEST)


@functools.cache
def _read(path: Path) -> dict[str, Entry]:
    nodes = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Entry.model_validate(node) for name, node in nodes.items()}


def entry_of(name: str) -> Entry:
    """The entry called `name`. Raises UserError, which says what was probably meant."""
    entries = catalog()
    if name not in entries:
        raise UserError(f"no published weights are called {name!r}; {suggest(name, entries)}")
    return entries[name]
