"""`passl-export`: hand a trained network on to programs that know nothing of this package."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from passl_simsiam.commands.common import guarded, new_parser

FORMATS = ("paddle", "onnx")
OUTPUTS = ("logits", "backbone", "projector", "predictor")


def main(argv: Sequence[str] | None = None) -> int:
    """Export; the exit code."""
    parser = new_parser(
        "passl-export",
        "Write a network as a Paddle inference model or as ONNX, with any batch size, and check it against the "
        "original on random and on real images; what does not agree is not kept.",
    )
    parser.add_argument("source", help="a run's folder, a checkpoint's, a weight file, or a name of the zoo")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["paddle"], help="onnx needs the extra onnx")
    parser.add_argument(
        "--layer",
        choices=OUTPUTS,
        help="what the model gives; by default the logits of a classifier (a linear probe, a fine-tuned network), else "
        "the backbone's features",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="take raw pixels, uint8 [batch, height, width, RGB], already at their size, and normalise them inside; "
        "otherwise the input is float32 [batch, RGB, height, width], normalised",
    )
    parser.add_argument(
        "--images", metavar="FOLDER", help="real images to check on; by default those that the recipe evaluates on"
    )
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
    from passl_simsiam import runtime

    runtime.prepare_environment()
    runtime.choose_device("cpu")
    from passl_simsiam.log import RunLog, messages_into
    from passl_simsiam.tasks import export

    formats = list(dict.fromkeys(arguments.format))
    with RunLog(None) as log, messages_into(log):
        summary = export.run(
            arguments.source,
            arguments.out,
            formats=formats,
            output=arguments.layer,
            raw=arguments.raw,
            folder=arguments.images,
            warn=log.warn,
        )
    given, made = summary["input"], summary["output"]
    print(f"{arguments.out}: {', '.join([*summary['files'], 'export.json'])}")
    print(f"input {given['name']}: {given['dtype']} {given['shape']}; {made['meaning']}: float32 {made['shape']}")
    for name in formats:
        for where, proof in summary["checked"][name].items():
            print(
                f"{name}, {proof['images']} {where}: differs by at most {proof['largest_difference']:.1e}, "
                f"{proof['relative']:.1e} of the largest output"
            )
