"""A report's content, whatever it will be written as: sections of texts, facts, tables and pictures.

It is written as Markdown, its pictures as PNG files beside it, and as report.json, from which html.py makes a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from passl_simsiam.evaluation import pictures


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    facts: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table; all columns but the first hold numbers unless `words`."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture, `file` in the report's folder, and what to look for in it.

    Attributes:
        image: what is to be saved there: a matplotlib figure, or a uint8 array [H, W, 3]. Not kept in report.json.
    """

    file: str
    caption: str
    image: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Card:
    """A value with a name, a few words on it, and all that it depends on."""

    name: str
    value: str
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Code:
    """Commands, or a file; `title` is shown in its place until it is opened, if there is one."""

    text: str
    title: str = ""


Part = Text | Facts | Table | Picture | Card | Code
_KINDS: dict[str, type[Part]] = {kind.__name__: kind for kind in (Text, Facts, Table, Picture, Card, Code)}


@dataclass(frozen=True)
class Section:
    """A headline and what follows it."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        summary: what came out, in a few sentences.
        headline: the few numbers that matter: (what, value, its meaning in a few words).
    """

    title: str
    sections: Sequence[Section]
    summary: str = ""
    headline: Sequence[tuple[str, str, str]] = ()

    def pictures(self) -> list[Picture]:
        return [part for section in self.sections for part in section.parts if isinstance(part, Picture)]


def write(folder: Path, document: Document) -> Path:
    """Write report.md, report.json and the pictures into `folder`; return report.md's path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in document.pictures():
        if hasattr(picture.image, "savefig"):
            picture.image.savefig(folder / picture.file)
        elif picture.image is not None:
            pictures.save_image(picture.image, folder / picture.file)
    (folder / "report.json").write_text(json.dumps(_as_json(document), indent=1) + "\n", encoding="utf-8")
    path = folder / "report.md"
    path.write_text(markdown(document), encoding="utf-8")
    return path


def read(folder: Path) -> Document:
    """What `write` left in `folder`, without the images. Raises OSError, ValueError."""
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    try:
        sections = [
            Section(section["title"], [_KINDS[part["kind"]](**part["content"]) for part in section["parts"]])
            for section in content["sections"]
        ]
        headline = [(what, value, meaning) for what, value, meaning in content["headline"]]
        return Document(content["title"], sections, content["summary"], headline)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'report.json'} is no report: {error}") from error


def _as_json(document: Document) -> dict[str, Any]:
    def content(part: Part) -> dict[str, Any]:
        return {"file": part.file, "caption": part.caption} if isinstance(part, Picture) else asdict(part)

    return {
        "title": document.title,
        "summary": document.summary,
        "headline": list(document.headline),
        "sections": [
            {
                "title": section.title,
                "parts": [{"kind": type(part).__name__, "content": content(part)} for part in section.parts],
            }
            for section in document.sections
        ],
    }


def markdown(document: Document) -> str:
    """The document as Markdown, which shows the pictures beside it."""
    blocks = [f"# {document.title}", *([document.summary] if document.summary else [])]
    for section in document.sections:
        blocks += [f"## {section.title}", *map(_markdown, section.parts)]
    return "\n\n".join(blocks) + "\n"


def _markdown(part: Part) -> str:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Facts):
        return "\n".join(f"- {name}: {value}" for name, value in part.facts.items())
    if isinstance(part, Picture):
        return f"![{part.file.removesuffix('.png')}]({part.file})\n\n{part.caption}"
    if isinstance(part, Card):
        return "\n\n".join(filter(None, (f"**{part.name}: {part.value}**", part.note, _markdown(Facts(part.facts)))))
    if isinstance(part, Code):
        return f"```\n{part.text.rstrip()}\n```"
    rule = ["---" if part.words else "---:"] * len(part.head)
    lines = [part.head, ["---" if part.words or not part.head[0] else "---:", *rule[1:]], *part.rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
