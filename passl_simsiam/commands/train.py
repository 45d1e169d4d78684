"""`passl-train`: run a recipe's task."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from passl_simsiam.commands.common import guarded, prepare, recipe_parser
from passl_simsiam.commands.launch import add_nproc, launch, wanted
from passl_simsiam.config import load_config, to_yaml


def main(argv: Sequence[str] | None = None) -> int:
    """Pretrain, probe or fine-tune; the exit code."""
    parser = recipe_parser("passl-train", "Pretrain, probe or fine-tune as a recipe says.")
    parser.add_argument("--print-config", action="store_true", help="print the resolved recipe and stop")
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, run one step, report shapes and costs; write nothing"
    )
    parser.add_argument(
        "--subset",
        metavar="FILE|FRACTION",
        help="train on the images that a file names, a line each, or on this share of each class (0.01)",
    )
    add_nproc(parser, argv)
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, [*_subset(arguments.subset), *arguments.override])
    if wanted(arguments) and not arguments.print_config:
        launch(
            "passl_simsiam.commands.train",
            arguments,
            None if arguments.dry_run else Path(config.Global.output_dir) / "log",
        )
        return
    environment = prepare(config)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return
    from passl_simsiam.tasks import run

    run.dry_run(config, environment) if arguments.dry_run else run.train(config, environment)


def _subset(given: str | None) -> list[str]:
    """`--subset` as an override."""
    if given is None:
        return []
    try:
        value = f"{{fraction: {float(given)}}}"
    except ValueError:
        value = json.dumps(given)
    return [f"DataLoader.Train.dataset.subset={value}"]


if __name__ == "__main__":
    raise SystemExit(main())
