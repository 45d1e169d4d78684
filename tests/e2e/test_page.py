"""A report's page in a real browser, at the width of a desk and of a telephone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser

from passl_simsiam.evaluation import document as content
from passl_simsiam.evaluation import feature_pictures as draw
from passl_simsiam.evaluation.document import Card, Code, Document, Facts, Picture, Section, Table, Text
from passl_simsiam.evaluation.html import page

LONG = "sha256 " + 64 * "0f"
MAGENTA = (255, 0, 255)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A page with all that may become too wide."""
    rng = np.random.default_rng(0)
    wide = np.broadcast_to(np.array(MAGENTA, np.uint8), (60, 1600, 3))
    names = ["kind", "ship", "automobile"]
    confusion = draw.confusion_matrix(rng.integers(0, 9, (3, 3)), names)
    parts = [
        Facts({"checkpoint": LONG}),
        Table(["measure", "at the end", "what it means"], [["gradient backbone", "0.0123", "words " * 20]], words=True),
        Table(["labels a class", "SimSiam features", "raw pixels"], [["1", "81.4 ± 3.2", "59.6 ± 3.4"]]),
        Picture("wide.png", "A wide one. " * 10, wide),
        Picture("confusion.png", "Who is taken for whom.", confusion),
        Card("kNN, top-1", "97.25 %", "top-5 99 %", {"checkpoint": LONG, "transform": "Resize(size=32)"}),
        Code("passl-train -c " + "very/long/path/" * 12, "commands"),
        Text("word" * 60),
    ]
    report = Document("A report", [Section("Everything", parts)], "In short.", [("kNN", "97 %", "chance 10 %")])
    content.write(tmp_path, report)
    path = tmp_path / "index.html"
    path.write_text(page(tmp_path, report), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_shows_its_pictures(written: Path, tmp_path: Path, width: int) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.resize(width, 900)
        browser.open(written.as_uri())
        loaded = "[...document.images].filter(image => image.complete && image.naturalWidth > 0).length"
        assert browser.wait_until(lambda page: page.evaluate(loaded) == 2), "a picture is not shown"
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        outside = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
        assert browser.evaluate(f"{outside}.length") == 0
        fetched = "performance.getEntriesByType('resource').map(e => e.name).filter(name => !name.startsWith('data:'))"
        assert browser.evaluate(fetched) == []
        browser.evaluate("document.images[0].scrollIntoView()")
        assert browser.wait_until(lambda page: (page.pixels() == MAGENTA).all(axis=2).sum() > 1000)
