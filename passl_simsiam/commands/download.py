"""`passl-download`: fetch published weights by name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from passl_simsiam.commands.common import guarded, new_parser

DESCRIPTION = """Fetch published weights, checked, into the cache (~/.cache/passl_simsiam, or $PASSL_SIMSIAM_CACHE). A
download that was cut goes on where it stopped. Global.pretrained_model: NAME uses them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Download or list; the exit code."""
    parser = new_parser("passl-download", DESCRIPTION)
    parser.add_argument("name", nargs="?", metavar="NAME", help="an entry of pretrained/models.yaml")
    parser.add_argument("--list", action="store_true", help="say what there is")

    def work(arguments: argparse.Namespace) -> None:
        if arguments.list == (arguments.name is not None):
            parser.error("give NAME, or --list")
        _list() if arguments.list else _download(arguments.name)

    return guarded(parser, argv, work)


def _list() -> None:
    from passl_simsiam import zoo

    for name, entry in zoo.catalog().items():
        here = f"\n  here: {zoo.place_of(name)}" if zoo.place_of(name).is_file() else ""
        print(f"{name}\n  {entry}\n  {entry.page}{here}")


def _download(name: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from passl_simsiam import zoo
    from passl_simsiam.checkpoint.inspect import inspect

    entry = zoo.entry_of(name)
    print(f"{name}: {entry}\n{entry.url}", file=sys.stderr)
    if entry.sha256 is None:
        print(
            "its publisher gives no checksum: the first file that arrives is trusted, and its sha256 kept to compare",
            file=sys.stderr,
        )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(entry.file, total=entry.size)
        path = zoo.download(name, lambda done, total: progress.update(task, completed=done, total=total))
    print(inspect(path))
    print(f"use it by Global.pretrained_model={name}, or convert it: passl-convert {name} OUT")
