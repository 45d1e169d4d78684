"""The commands that work on data and on weight files, without a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from passl_simsiam.cli import add_overrides, guarded, new_parser
from passl_simsiam.config import load_config


def doctor(argv: Sequence[str] | None = None) -> int:
    """`passl-doctor`: look for trouble before a run does."""
    parser = new_parser("passl-doctor", "Read every image of a recipe's data sets and report what is there.")
    parser.add_argument("--data", required=True, metavar="FILE", help="the recipe whose data sets to scan")
    add_overrides(parser)

    def work(arguments: argparse.Namespace) -> None:
        from rich.console import Console

        from passl_simsiam import build
        from passl_simsiam.data.scan import scan, show

        config, console = load_config(arguments.data, arguments.override), Console(highlight=False)
        for name, split in (("Train", config.DataLoader.Train), ("Eval", config.DataLoader.Eval)):
            if split is not None:
                where = f"DataLoader.{name}"
                console.print(f"{where}: {split.dataset.name}")
                show(scan(build.dataset(split, where), build.transform(split, where)), console)

    return guarded(parser, argv, work)


def pack(argv: Sequence[str] | None = None) -> int:
    """`passl-pack`: make tar shards of a folder of images."""
    parser = new_parser("passl-pack", "Write a folder of images as tar shards, for the data set `Shards`; resumable.")
    parser.add_argument("folder", help="images, flat, nested or in class folders")
    parser.add_argument("target", type=Path, help="the folder to write the shards to")
    parser.add_argument("--split", help="the folder's split: train or val")
    parser.add_argument("--shard-size", type=int, default=1000, help="images of a shard")
    parser.add_argument("--short-side", type=int, help="shrink images whose shorter side has more pixels")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality of the images shrunk")

    def work(arguments: argparse.Namespace) -> None:
        from rich.console import Console

        from passl_simsiam.data.datasets.folder import ImageFolder
        from passl_simsiam.data.pack import pack

        packed = pack(
            ImageFolder(arguments.folder, arguments.split),
            arguments.target,
            shard_size=arguments.shard_size,
            short_side=arguments.short_side,
            quality=arguments.quality,
            console=Console(stderr=True),
        )
        print(f"{packed.samples} images, {packed.bytes / 1e6:.1f} MB in {arguments.target}; {len(packed.bad)} left out")
        for bad in packed.bad:
            print(f"left out: {bad.name} ({bad.reason})")

    return guarded(parser, argv, work)
