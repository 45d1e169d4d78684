"""`passl-predict`: what a probed or fine-tuned network says of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from passl_simsiam.commands.common import guarded, new_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; the exit code."""
    parser = new_parser("passl-predict", "Write the most probable classes of images to a CSV file.")
    parser.add_argument("network", metavar="RUN", help="a linear probe's or a fine-tuning's run, or a checkpoint of it")
    parser.add_argument("images", metavar="FOLDER_OR_LIST", help="a folder of images, a list of paths, or one image")
    parser.add_argument("out", metavar="OUT.csv", type=Path, help="the file to write")
    parser.add_argument("--split", help="the folder's split: train, val or all")
    parser.add_argument("--top", type=int, metavar="K", help="classes of each image, by default 5, or all if fewer")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images")
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
    from passl_simsiam import runtime

    runtime.prepare_environment()
    runtime.choose_device("auto")
    from passl_simsiam.log import RunLog, messages_into
    from passl_simsiam.tasks.images import open_images
    from passl_simsiam.tasks.predict import predict_to
    from passl_simsiam.tasks.pretrained import load_pretrained

    with RunLog(None) as log, messages_into(log):
        network = load_pretrained(arguments.network, log.warn)
        data = open_images(arguments.images, network.images.in_channels, arguments.split)
        top = min(5, len(network.images.classes or ())) if arguments.top is None else arguments.top
        broken = predict_to(
            arguments.out,
            network,
            data,
            top=top,
            batch_size=arguments.batch,
            num_workers=arguments.workers,
            log=log,
        )
    print(f"{arguments.out}: {len(data) - broken} images, {network.transform!r}; {broken} could not be read")
