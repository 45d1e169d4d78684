"""`passl-doctor`: look for trouble before a run does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from passl_simsiam.commands.common import add_overrides, guarded, new_parser
from passl_simsiam.config import load_config


def main(argv: Sequence[str] | None = None) -> int:
    """Scan a recipe's data sets; the exit code."""
    parser = new_parser("passl-doctor", "Read every image of a recipe's data sets and report what is there.")
    parser.add_argument("--data", required=True, metavar="FILE", help="the recipe whose data sets to scan")
    add_overrides(parser)
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from passl_simsiam import build
    from passl_simsiam.data.scan import scan, show

    config, console = load_config(arguments.data, arguments.override), Console(highlight=False)
    for name, split in (("Train", config.DataLoader.Train), ("Eval", config.DataLoader.Eval)):
        if split is not None:
            where = f"DataLoader.{name}"
            console.print(f"{where}: {split.dataset.name}")
            show(scan(build.dataset(split, where), build.transform(split, where)), console)
