"""`passl-eval`: score a checkpoint, by whatever protocols are asked for, or compare runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from passl_simsiam.commands.common import add_overrides, guarded, new_parser, prepare
from passl_simsiam.commands.launch import add_nproc, launch, wanted
from passl_simsiam.config import Config, load_config
from passl_simsiam.errors import UserError

DESCRIPTION = (
    "Score a checkpoint without training: kNN for a pretraining run, top-1 and top-5 for the others, or the protocols "
    "that --protocol names. Scores are added to scorecard.json and scorecard.md in the run's folder. The checkpoint is "
    "Global.checkpoint, or else the best of the run."
)
PROTOCOL_HELP = (
    "knn, linear_fast (linear probe on cached features), logistic, few_label, retrieval, or all of them; several by "
    "commas"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint without training, or compare runs; the exit code."""
    parser = new_parser("passl-eval", DESCRIPTION)
    parser.add_argument("-c", "--config", metavar="FILE", help="the recipe; with --run, that of the run by default")
    add_overrides(parser)
    parser.add_argument("--run", metavar="RUN", help="the folder of the run to score")
    parser.add_argument("--protocol", metavar="NAMES", help=PROTOCOL_HELP)
    parser.add_argument("--layer", choices=("backbone", "projector", "predictor"), help="whose features (backbone)")
    parser.add_argument("--neighbours", nargs="+", metavar="IMAGE", help="tell the training images nearest to these")
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="a table of the runs' scores, and their curves")
    parser.add_argument("--report", metavar="RUN", help="make the run's report again: report/index.html, one page")
    parser.add_argument("--out", metavar="FILE", help="with --compare: the table (compare.md), its picture beside it")
    add_nproc(parser, argv)
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
    if arguments.compare:
        _compare(arguments)
        return
    if arguments.out:
        raise UserError("--out is where --compare writes its table; give both")
    arguments.run = arguments.report or arguments.run
    config = _config(arguments)
    if wanted(arguments):
        launch("passl_simsiam.commands.evaluate", arguments, None)
        return
    environment = prepare(config)
    if arguments.report:
        from passl_simsiam.tasks.rereport import report_again

        print(report_again(config, environment))
        return
    from passl_simsiam.tasks import run
    from passl_simsiam.tasks.scoring import Wanted

    asked = None
    if arguments.protocol or arguments.layer or arguments.neighbours:
        # Neighbours alone need no score.
        names = arguments.protocol or ("" if arguments.neighbours else "knn")
        protocols = tuple(name.strip() for name in names.split(",") if name.strip())
        asked = Wanted(protocols, arguments.layer or "backbone", tuple(arguments.neighbours or ()))
    run.evaluate(config, environment, asked)


def _config(arguments: argparse.Namespace) -> Config:
    """The recipe that is given, or that of the run; with --run its folder wherever it is now. Raises UserError."""
    if not arguments.run:
        if not arguments.config:
            raise UserError("nothing to score: give a run by --run RUN, or a recipe by -c FILE")
        return load_config(arguments.config, arguments.override)
    run = Path(arguments.run)
    recipe = arguments.config or run / "config.yaml"
    if not arguments.config and not recipe.is_file():
        raise UserError(f"{run} is no run's folder: there is no config.yaml in it")
    # A recipe of a run says what the run went on from, which is not what is to be scored.
    moved = [f"Global.output_dir={run}", "Global.checkpoint=null"]
    return load_config(recipe, [*moved, *arguments.override])


def _compare(arguments: argparse.Namespace) -> None:
    from passl_simsiam.evaluation.compare import compare

    path, text = compare([Path(run) for run in arguments.compare], Path(arguments.out or "compare.md"))
    print(text)
    print(f"written: {path} and {path.with_suffix('.png')}")
