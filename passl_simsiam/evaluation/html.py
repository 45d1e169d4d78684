"""A report as one HTML file: pictures inside, no script, nothing from the network, readable on a telephone too."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from passl_simsiam.evaluation.document import Card, Code, Document, Facts, Part, Picture, Section, Table, Text

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>{summary}{headline}</header>
<main>
{sections}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #ffffff; --card: #f4f6f9;
  --line: #d9dee6; --accent: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #a0a9b6; --paper: #14181e; --card: #1f252d;
  --line: #343c48; --accent: #7fb2ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 0.75rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 0.75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { margin: 0.6rem 0; max-width: 46rem; }
.lead { font-size: 1.08rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 0.9rem;
  margin: 1rem 0; }
.card { background: var(--card); border-radius: 0.5rem; padding: 0.8rem 1rem; }
.card .name { color: var(--soft); font-size: 0.9rem; }
.card .value { font-size: 1.6rem; font-weight: 650; line-height: 1.3; color: var(--accent); }
.card .value.long { font-size: 1.1rem; }
.card .note { font-size: 0.88rem; color: var(--soft); }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.2rem 1rem; margin: 0.6rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.card dl { font-size: 0.82rem; gap: 0.1rem 0.7rem; margin: 0.6rem 0 0; padding-top: 0.6rem;
  border-top: 1px solid var(--line); grid-template-columns: minmax(4rem, 7rem) 1fr; }
table { border-collapse: collapse; margin: 0.8rem 0; font-size: 0.95rem; }
th, td { padding: 0.35rem clamp(0.7rem, 2vw, 1.4rem) 0.35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { color: var(--soft); font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.split { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 29rem), 1fr)); gap: 0 2rem;
  align-items: start; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 29rem), 1fr)); gap: 1.5rem 2rem;
  margin: 1rem 0; align-items: start; }
figure { margin: 0; }
figure img { display: block; width: 100%; max-width: 40rem; height: auto; background: #fff; border-radius: 0.4rem;
  border: 1px solid var(--line); }
figcaption { font-size: 0.9rem; color: var(--soft); margin-top: 0.45rem; max-width: 40rem; }
pre { background: var(--card); border-radius: 0.5rem; padding: 0.8rem 1rem; font-size: 0.82rem; line-height: 1.45;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.6rem 0; }
summary { cursor: pointer; color: var(--accent); }
"""


def page(folder: Path, document: Document) -> str:
    """The document as HTML.

    Args:
        folder: where its pictures are; one that is missing is left out.
    """
    return _PAGE.format(
        title=escape(document.title),
        style=_STYLE,
        summary=f'<p class="lead">{escape(document.summary)}</p>' if document.summary else "",
        headline=_cards([Card(*item) for item in document.headline]),
        sections="\n".join(_section(folder, section) for section in document.sections),
    )


def _section(folder: Path, section: Section) -> str:
    parts = []
    for kind, group in groupby(section.parts, type):
        members = list(group)
        if kind is Picture:
            figures = "".join(_figure(folder, part) for part in members if isinstance(part, Picture))
            parts.append(f'<div class="figures">{figures}</div>' if figures else "")
        elif kind is Card:
            parts.append(_cards([part for part in members if isinstance(part, Card)]))
        else:
            parts += map(_part, members)
    body = "\n".join(parts)
    if len(parts) > 1 and parts[-1].count("<figure>") == 1:  # a single picture stands beside its text
        body = f'<div class="split"><div>{"".join(parts[:-1])}</div>{parts[-1]}</div>'
    return f"<section><h2>{escape(section.title)}</h2>\n{body}\n</section>"


def _part(part: Part) -> str:
    if isinstance(part, Text):
        return f"<p>{escape(part.text)}</p>"
    if isinstance(part, Facts):
        return _facts(part)
    if isinstance(part, Table):
        return _table(part)
    assert isinstance(part, Code)
    code = f"<pre>{escape(part.text)}</pre>"
    return f"<details><summary>{escape(part.title)}</summary>{code}</details>" if part.title else code


def _facts(part: Facts) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in part.facts.items())
    return f"<dl>{items}</dl>"


def _table(part: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        numbers = [False] * len(cells) if part.words else [k > 0 for k in range(len(cells))]
        return "".join(
            f"<{tag}{' class=number' if number else ''}>{_cell(str(cell))}</{tag}>"
            for cell, number in zip(cells, numbers, strict=True)
        )

    head = f"<thead><tr>{line(part.head, 'th')}</tr></thead>"
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in part.rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    bold = text.startswith("**") and text.endswith("**") and len(text) > 4
    return f"<b>{escape(text[2:-2])}</b>" if bold else escape(text)


def _cards(cards: Sequence[Card]) -> str:
    def one(card: Card) -> str:
        long = " long" if len(card.value) > 14 else ""
        note = f'<div class="note">{escape(card.note)}</div>' if card.note else ""
        facts = _facts(Facts(card.facts)) if card.facts else ""
        return (
            f'<div class="card"><div class="name">{escape(card.name)}</div>'
            f'<div class="value{long}">{escape(card.value)}</div>{note}{facts}</div>'
        )

    return f'<div class="cards">{"".join(map(one, cards))}</div>' if cards else ""


def _figure(folder: Path, picture: Picture) -> str:
    try:
        data = (folder / Path(picture.file).name).read_bytes()
    except FileNotFoundError:
        return ""
    name = Path(picture.file).stem.replace("_", " ")
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return f'<figure><img src="{source}" alt="{escape(name)}">{caption}</figure>'
