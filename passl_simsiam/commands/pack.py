"""`passl-pack`: make tar shards of a folder of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from passl_simsiam.commands.common import guarded, new_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Pack; the exit code."""
    parser = new_parser("passl-pack", "Write a folder of images as tar shards, for the data set `Shards`; resumable.")
    parser.add_argument("folder", help="images, flat, nested or in class folders")
    parser.add_argument("target", type=Path, help="the folder to write the shards to")
    parser.add_argument("--split", help="the folder's split: train or val")
    parser.add_argument("--shard-size", type=int, default=1000, help="images of a shard")
    parser.add_argument("--short-side", type=int, help="shrink images whose shorter side has more pixels")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality of the images shrunk")
    return guarded(parser, argv, _work)


def _work(arguments: argparse.Namespace) -> None:
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
