"""`passl-doctor`: look for trouble before a run does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from passl_simsiam.commands.common import add_overrides, guarded, new_parser, prepare
from passl_simsiam.commands.launch import add_nproc, launch, wanted
from passl_simsiam.config import load_config


def main(argv: Sequence[str] | None = None) -> int:
    """Check what a run of a recipe needs, or scan its data sets; the exit code."""
    parser = new_parser("passl-doctor", "Look for trouble before a run does.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "-c", "--config", metavar="FILE", help="check network, versions, data, memory and disk for a run of this recipe"
    )
    what.add_argument("--data", metavar="FILE", help="read every image of this recipe's data sets")
    add_overrides(parser)
    add_nproc(parser, argv)
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
    if arguments.data:
        _scan(arguments)
        return
    config = load_config(arguments.config, arguments.override)
    if wanted(arguments):
        launch("passl_simsiam.commands.doctor", arguments, None)
        return
    environment = prepare(config)
    from passl_simsiam.tasks import doctor

    doctor.examine(config, environment)


def _scan(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from passl_simsiam import build
    from passl_simsiam.data.scan import scan, show

    config, console = load_config(arguments.data, arguments.override), Console(highlight=False)
    for name, split in (("Train", config.DataLoader.Train), ("Eval", config.DataLoader.Eval)):
        if split is not None:
            where = f"DataLoader.{name}"
            console.print(f"{where}: {split.dataset.name}")
            show(scan(build.dataset(split, where), build.transform(split, where)), console)
