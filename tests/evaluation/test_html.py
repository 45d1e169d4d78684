"""The page: everything in it, nothing outside of it, and data stays data."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from passl_simsiam.evaluation import document as content
from passl_simsiam.evaluation.document import Card, Code, Document, Facts, Picture, Section, Table, Text
from passl_simsiam.evaluation.html import page

EVIL = '<script>alert("x")</script> & {braces} \' "'


def evil_document() -> Document:
    image = np.zeros((4, 4, 3), np.uint8)
    parts = [
        Text(EVIL),
        Facts({EVIL: EVIL}),
        Table([EVIL, "n"], [[EVIL, EVIL], ["**bold**", "1"]]),
        Picture("a.png", EVIL, image),
        Card(EVIL, EVIL, EVIL, {EVIL: EVIL}),
        Code(EVIL, EVIL),
    ]
    return Document(EVIL, [Section(EVIL, parts)], EVIL, [(EVIL, EVIL, EVIL)])


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def test_what_comes_from_data_stays_text(tmp_path):
    content.write(tmp_path, evil_document())
    reader = parsed(page(tmp_path, evil_document()))
    assert "script" not in reader.tags
    assert "".join(reader.text).count(EVIL) >= 15
    assert {name for name, _ in reader.attributes} <= {"lang", "charset", "name", "content", "http-equiv", "class",
                                                      "src", "alt"}  # fmt: skip


def test_pictures_are_inside_and_nothing_is_fetched(tmp_path):
    written = evil_document()
    content.write(tmp_path, written)
    html = page(tmp_path, written)
    (source,) = [value for name, value in parsed(html).attributes if name == "src"]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == (tmp_path / "a.png").read_bytes()
    assert not re.search(r"https?:|//[a-z]|url\(|@import|href", html)
    assert "default-src 'none'" in html
    (tmp_path / "a.png").unlink()
    assert "<img" not in page(tmp_path, written)


def test_a_picture_cannot_be_taken_from_elsewhere(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "report").mkdir()
    html = page(tmp_path / "report", Document("t", [Section("s", [Picture("../secret.png", "c")])]))
    assert "<img" not in html


def test_a_report_comes_back_as_it_was_written(tmp_path):
    written = evil_document()
    content.write(tmp_path, written)
    back = content.read(tmp_path)
    assert content.markdown(back) == content.markdown(written)
    assert page(tmp_path, back) == page(tmp_path, written)
    for damage in ("", "[]", '{"title": 1}'):
        (tmp_path / "report.json").write_text(damage)
        with pytest.raises(ValueError, match=r"report|Expecting"):
            content.read(tmp_path)


def test_markdown_of_a_table_and_a_card():
    parts = [Table(["k", "top-1 (%)"], [["1", "a|b"]]), Card("kNN", "97 %", facts={"k": "5"}), Code("passl-eval")]
    text = content.markdown(Document("T", [Section("S", parts)], "In short."))
    assert text == (
        "# T\n\nIn short.\n\n## S\n\n| k | top-1 (%) |\n| ---: | ---: |\n| 1 | a\\|b |\n\n**kNN: 97 %**\n\n- k: 5\n\n"
        "```\npassl-eval\n```\n"
    )
