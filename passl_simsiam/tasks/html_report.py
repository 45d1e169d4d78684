"""A run's report as one page: what the run wrote into report/, its scorecard, and how to do it again."""

from __future__ import annotations

import shlex
from pathlib import Path

from passl_simsiam.checkpoint.durable import replacing
from passl_simsiam.errors import UserError
from passl_simsiam.evaluation import document, html, scorecard
from passl_simsiam.evaluation.document import Card, Code, Document, Section, Text
from passl_simsiam.evaluation.report import TRAINING


def write_html(run: Path) -> Path:
    """Write RUN/report/index.html, which needs no other file, and return its path.

    Args:
        run: the folder of a run that has report/report.json.

    Raises:
        UserError: it has none, or the page cannot be written.
    """
    folder = run / "report"
    try:
        report = document.read(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{run} has no report to show: {error}") from error
    # The scores stand together, before what training was like.
    scores = next((k for k, s in enumerate(report.sections) if s.title == TRAINING), len(report.sections))
    sections = [*report.sections[:scores], *_scorecard(run), *report.sections[scores:], _again(run)]
    whole = Document(report.title, sections, report.summary, report.headline)
    path = folder / "index.html"
    with replacing(path) as aside:
        aside.write_text(html.page(folder, whole), encoding="utf-8")
    return path


def _scorecard(run: Path) -> list[Section]:
    entries = scorecard.latest(scorecard.read(run))
    if not entries:
        return []
    cards = []
    for entry in entries:
        first, *others = [(scorecard.score_name(name), value) for name, value in entry.scores.items()]
        note = ", ".join(f"{name} {100 * value:.2f} %" for name, value in others)
        facts = {name.replace("_", " "): scorecard.plain(value) for name, value in entry.settings.items()}
        facts |= {
            "data": entry.data,
            "checkpoint": scorecard.checkpoint_in_words(entry.checkpoint),
            "when": f"{entry.when}, took {entry.seconds:.1f} s",
            "version": entry.version,
        }
        cards.append(Card(f"{entry.title}, {first[0]}", f"{100 * first[1]:.2f} %", note, facts))
    words = "Every score that was taken of this run, with all that it depends on. Compare only like with like."
    return [Section("Scorecard", [Text(words), *cards])]


def _again(run: Path) -> Section:
    """The commands, as they were typed or could have been, and the recipe."""
    recipe = run / "config.yaml"
    where = shlex.quote(str(recipe))
    commands = [
        f"passl-train -c {where} -o Global.output_dir=output/again   # the same run once more",
        f"passl-eval -c {where}   # score its best checkpoint again",
        f"passl-eval --report {shlex.quote(str(run))}   # make this page again",
    ]
    parts = [Code("\n".join(commands))]
    if recipe.is_file():
        parts.append(Code(recipe.read_text(encoding="utf-8"), "the whole recipe, as resolved"))
    return Section("How to do it again", parts)
