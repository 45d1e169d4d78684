"""`passl-eval`: score a checkpoint as a recipe says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from passl_simsiam.commands.common import guarded, prepare, recipe_parser
from passl_simsiam.config import load_config


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint without training; the exit code."""
    parser = recipe_parser(
        "passl-eval",
        "Score a checkpoint without training: kNN for a pretraining recipe, top-1 and top-5 for the others. "
        "The checkpoint is Global.checkpoint, or else the best of Global.output_dir.",
    )
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, arguments.override)
    environment = prepare(config)
    from passl_simsiam.tasks import run

    run.evaluate(config, environment)
