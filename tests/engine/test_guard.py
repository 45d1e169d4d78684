"""When the guard against collapse speaks, and when it ends a run."""

from __future__ import annotations

from typing import Any

import pytest

from passl_simsiam.engine.guard import CollapseGuard

HEALTHY, COLLAPSED = (0.97, 60.0), (0.01, 40.0)


def guard(action: str = "stop", **changes: Any) -> CollapseGuard:
    arguments = {"std_below": 0.2, "rank_below": 3.0, "reports": 2, "grace_steps": 20, "causes": "A small batch."}
    return CollapseGuard(action, **(arguments | changes))  # type: ignore[arg-type]


def said(guard: CollapseGuard, *reports: tuple[float, float], first: int = 30) -> list[str | None]:
    """What comes of reports at steps 30, 40, ...: None, "warn" or "stop"."""
    verdicts = [guard.judge(first + 10 * i, *report) for i, report in enumerate(reports)]
    return [verdict and ("stop" if verdict.stop else "warn") for verdict in verdicts]


def test_it_warns_then_stops() -> None:
    watching = guard()
    assert said(watching, *[COLLAPSED] * 5) == [None, "warn", None, "stop", None]
    assert watching.stopped
    for words in ("1.0% of 1/sqrt(d)", "40.0 directions", "4 reports in a row up to step 60", "A small batch."):
        assert words in watching.stopped


@pytest.mark.parametrize(("report", "counts"), [((0.19, 60), True), ((0.9, 2.9), True), ((0.21, 3.1), False)])
def test_too_little_spread_or_too_few_directions(report: tuple[float, float], counts: bool) -> None:
    assert said(guard(), report, report) == [None, "warn" if counts else None]


def test_a_healthy_report_begins_the_count_anew() -> None:
    assert (
        said(guard(), COLLAPSED, HEALTHY, COLLAPSED, COLLAPSED, HEALTHY, COLLAPSED)
        == [None] * 3 + ["warn"] + [None] * 2
    )


def test_the_start_does_not_count() -> None:
    assert said(guard(), *[COLLAPSED] * 4, first=10) == [None, None, None, "warn"]  # steps 10 and 20 do not


def test_warn_never_stops_and_off_never_speaks() -> None:
    watching = guard("warn")
    assert said(watching, *[COLLAPSED] * 10).count("warn") == 1
    assert watching.stopped is None
    assert said(guard("off"), *[COLLAPSED] * 10) == [None] * 10
