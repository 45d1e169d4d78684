"""What every command shares: its parser, the recipe's overrides, and the exit code that an error ends in."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

from passl_simsiam import __version__
from passl_simsiam.config import Config
from passl_simsiam.errors import Interrupted, TrainingError, UserError

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on
EXIT_INTERRUPTED = 130


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


def recipe_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser of a command that works on a recipe."""
    parser = new_parser(name, description)
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="the recipe, a YAML file")
    add_overrides(parser)
    return parser


def prepare(config: Config) -> dict[str, str]:
    """Set up the process, then check the recipe's components, whose constructors need Paddle."""
    from passl_simsiam import build, distributed, runtime

    environment = runtime.prepare_environment(config.Global.threads, distributed.from_environment().size)
    build.check(config)
    return environment


@contextlib.contextmanager
def _told_to_other_ranks() -> Iterator[None]:
    """An error of this rank ends the job, wherever it happens; said here, so that the others need not find out."""
    from passl_simsiam import distributed

    try:
        yield
    except BaseException as error:
        distributed.stop(error)
        raise


def guarded(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace], None]
) -> int:
    """Parse and work; the exit code. What a user can put right ends in one line and code 2."""
    arguments = parser.parse_args(argv)
    try:
        with _told_to_other_ranks():
            work(arguments)
        return 0
    except (UserError, TrainingError) as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILED
    except Interrupted as stop:
        print(f"{stop}; the same command with -o Global.checkpoint=auto goes on", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
