"""The checks that a run begins with, alone and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from passl_simsiam.config import Config
from passl_simsiam.log import messages_into
from passl_simsiam.tasks import classify, pretrain
from passl_simsiam.tasks.preflight import Check, check_start, check_training, require
from passl_simsiam.tasks.session import open_session

COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


def examine(config: Config, environment: Mapping[str, str]) -> None:
    """Build the recipe, print the table of checks on the main rank, write nothing. Raises UserError if one failed."""
    with open_session(config, environment, writes=False) as session, messages_into(session.log):
        checks = check_start(session)
        if all(check.result != "fail" for check in checks):  # the same on all ranks
            prepare = pretrain.prepare if config.Global.task == "pretrain" else classify.prepare
            checks += check_training(prepare(session).training)
        if session.world.is_main:
            show(checks, Console(highlight=False))
        require(session, checks)


def show(checks: Sequence[Check], console: Console) -> None:
    table = Table()
    for column in ("check", "result", "detail"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, f"[{COLORS[check.result]}]{check.result}[/]", check.detail)
    console.print(table)
