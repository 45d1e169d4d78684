"""`passl-extract`: features of a folder or list of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from passl_simsiam.commands.common import guarded, new_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Extract; the exit code."""
    parser = new_parser(
        "passl-extract",
        "Write the features of images to OUT/features.npy, row by row as OUT/index.csv names them. The same command "
        "goes on with an extraction that was stopped.",
    )
    parser.add_argument("network", metavar="RUN_OR_WEIGHTS", help="a run, a checkpoint or a weight file")
    parser.add_argument("images", metavar="FOLDER_OR_LIST", help="a folder of images, or a text or CSV file of paths")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write to")
    parser.add_argument("--split", help="the folder's split: train, val or all")
    parser.add_argument("--layer", choices=("backbone", "projector", "predictor"), default="backbone")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--size", type=int, metavar="PX", help="side of the view, by default that of the training")
    parser.add_argument("--resize", type=int, metavar="PX", help="shorter side before a central crop of --size")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument("--sha256", action="store_true", help="add each file's checksum to index.csv")
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
    from passl_simsiam import runtime

    runtime.prepare_environment()
    runtime.choose_device("auto")
    from passl_simsiam.log import RunLog, messages_into
    from passl_simsiam.tasks.extract import Settings, extract_to
    from passl_simsiam.tasks.feature_files import FEATURES
    from passl_simsiam.tasks.images import open_images
    from passl_simsiam.tasks.pretrained import load_pretrained, standard_transform

    with RunLog(None) as log, messages_into(log):
        network = load_pretrained(arguments.network, log.warn)
        data = open_images(arguments.images, network.images.in_channels, arguments.split)
        view = network.transform
        if arguments.size or arguments.resize:
            view = standard_transform(arguments.size or view.size, arguments.resize)
        settings = Settings(arguments.layer, arguments.dtype, arguments.batch, arguments.workers, arguments.sha256)
        done = extract_to(arguments.out, network, data, view, settings, log)
    print(
        f"{arguments.out / FEATURES}: {done.rows} x {done.channels} {arguments.dtype} of the {arguments.layer}, "
        f"{view!r}; {done.broken} images could not be read" + (", see broken.csv" if done.broken else "")
    )
