"""The commands. Paddle is imported only once the arguments and the recipe are known to be good."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence

from passl_simsiam import __version__
from passl_simsiam.config import Config, load_config, to_yaml
from passl_simsiam.errors import TrainingError, UserError

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def train(argv: Sequence[str] | None = None) -> int:
    """`passl-train`: run the recipe's task: pretraining, linear probe or fine-tuning."""
    parser = _recipe_parser("passl-train", "Pretrain, probe or fine-tune as a recipe says.")
    parser.add_argument("--print-config", action="store_true", help="print the resolved recipe and stop")
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, run one step, report shapes and costs; write nothing"
    )

    def work(arguments: argparse.Namespace) -> None:
        config = load_config(arguments.config, arguments.override)
        environment = _prepare(config)
        if arguments.print_config:
            print(to_yaml(config), end="")
            return
        from passl_simsiam.tasks import run

        run.dry_run(config, environment) if arguments.dry_run else run.train(config, environment)

    return guarded(parser, argv, work)


def evaluate(argv: Sequence[str] | None = None) -> int:
    """`passl-eval`: score a checkpoint as the recipe says, without training."""
    parser = _recipe_parser(
        "passl-eval",
        "Score a checkpoint without training: kNN for a pretraining recipe, top-1 and top-5 for the others. "
        "The checkpoint is Global.checkpoint, or else the best of Global.output_dir.",
    )

    def work(arguments: argparse.Namespace) -> None:
        config = load_config(arguments.config, arguments.override)
        environment = _prepare(config)
        from passl_simsiam.tasks import run

        run.evaluate(config, environment)

    return guarded(parser, argv, work)


def new_parser(name: str, description: str) -> argparse.ArgumentParser:
    """What every command understands."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--override",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe, for instance Global.epochs=5; any number of them, the value as YAML",
    )


def _recipe_parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = new_parser(name, description)
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="the recipe, a YAML file")
    add_overrides(parser)
    return parser


def _prepare(config: Config) -> dict[str, str]:
    """Set up the process, then check the recipe's components, whose constructors need Paddle."""
    from passl_simsiam import build, distributed, runtime

    environment = runtime.prepare_environment(config.Global.threads, distributed.from_environment().size)
    build.check(config)
    return environment


def guarded(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace], None]
) -> int:
    """Parse and work; the exit code. What a user can put right ends in one line and code 2."""
    arguments = parser.parse_args(argv)
    try:
        work(arguments)
        return 0
    except (UserError, TrainingError) as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
