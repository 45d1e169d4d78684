"""`passl-convert`: weights from one project's file into another's, with proof."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from passl_simsiam.commands.common import guarded, new_parser

DESCRIPTION = """Convert weights and prove it: every tensor has a rule or nothing is written, the result is read back
and compared bit for bit, and the networks of both files are run on fixed images (the torch side by torch where that
is installed)."""
SOURCE = "a weight file, a run's or checkpoint's folder, or a name that passl-download knows"
TARGET = """what to write: FILE.safetensors, FILE.pdparams, FILE.pth (.pt, .tar, .ckpt), or a folder, which becomes a
run's with a checkpoint that Global.checkpoint and Global.pretrained_model take"""
TO = """the target's format, where its suffix leaves a choice: by default that is official (torchvision without a
projector) in .pth, passl (paddle.vision) in .pdparams"""


def main(argv: Sequence[str] | None = None) -> int:
    """Convert or inspect; the exit code."""
    parser = new_parser("passl-convert", DESCRIPTION)
    parser.add_argument("source", nargs="?", metavar="IN", help=SOURCE)
    parser.add_argument("target", nargs="?", metavar="OUT", help=TARGET)
    parser.add_argument("--from", dest="source_format", metavar="FORMAT", help="the source's format; found by default")
    parser.add_argument("--to", dest="target_format", metavar="FORMAT", help=TO)
    parser.add_argument(
        "--with-optimizer", action="store_true", help="carry an official checkpoint's momentum over, into a folder"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="a .json or .md file; by default OUT.report.json")
    parser.add_argument("--inspect", metavar="FILE", help="tell what a file is, without running anything from it")
    parser.add_argument("--rules", action="store_true", help="print the formats and their rules as Markdown")

    def work(arguments: argparse.Namespace) -> None:
        wanted = [arguments.inspect is not None, arguments.rules, arguments.source is not None]
        if sum(wanted) != 1 or (arguments.source is not None and arguments.target is None):
            parser.error("give IN and OUT, or --inspect FILE, or --rules")
        _work(arguments)

    return guarded(parser, argv, work)


def _work(arguments: argparse.Namespace) -> None:
    if arguments.rules:
        from passl_simsiam.checkpoint.rules import document

        print(document(), end="")
        return
    if arguments.inspect is not None:
        from passl_simsiam import zoo
        from passl_simsiam.checkpoint.inspect import inspect

        print(inspect(zoo.resolve(arguments.inspect)))
        return
    from passl_simsiam import zoo
    from passl_simsiam.checkpoint.convert import convert
    from passl_simsiam.checkpoint.proof import prove

    report = convert(
        zoo.resolve(arguments.source),
        arguments.target,
        source_format=arguments.source_format,
        target_format=arguments.target_format,
        with_optimizer=arguments.with_optimizer,
        prove=prove,
        report=arguments.report,
    )
    print(report)
