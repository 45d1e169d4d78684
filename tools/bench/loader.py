"""Images a second of the whole loader by number of workers, and the share of time that a trainer waits for it.

    python tools/bench/loader.py --root FOLDER [--workers 0 1 2 4] [--step-ms 100] [--json]

FOLDER holds images, or tar shards (*.tar). Two runs each: one draws batches as fast as they come, which gives the rate;
in the other the trainer works for `--step-ms` a batch, as a GPU would (it sleeps: the processor stays with the
workers), which gives the share of its time that it waits. The first epoch, in which workers start and the disk's cache
fills, is not counted. A folder with few images counts several times, so that an epoch is long enough.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.table import Table

from passl_simsiam.data.datasets.files import ImageFiles
from passl_simsiam.data.datasets.paths import PathList
from passl_simsiam.data.loader import Loader
from passl_simsiam.errors import UserError
from passl_simsiam.registry import DATASETS, TRANSFORMS

EPOCH = 20  # batches that an epoch has at least


def run(loader: Loader, seconds: float, step: float) -> tuple[int, float, float]:
    """(images, seconds, seconds waited) of at least `seconds` of whole epochs, `step` seconds of work a batch."""
    images, epoch, waited, start = 0, 1, loader.waited, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for batch in loader.epoch(epoch):
            images += len(batch["index"])
            time.sleep(step)
        epoch += 1
    return images, time.perf_counter() - start, loader.waited - waited


def repeated(dataset: ImageFiles, count: int) -> ImageFiles:
    """The same files over and over, at least `count` of them."""
    names = [os.fsencode(dataset.paths[index]) for index in range(len(dataset))]
    paths = PathList([(b"", names)] * -(-count // len(names)))
    return ImageFiles(dataset.root, paths, None, None, dataset.in_channels, None, None, dataset.max_pixels)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    sharded = any(Path(arguments.root).glob("*.tar"))
    dataset = DATASETS.get("Shards" if sharded else "ImageFolder")(arguments.root)
    if not sharded:
        dataset = repeated(dataset, EPOCH * arguments.batch_size)
    transform = TRANSFORMS.get(arguments.transform)(size=arguments.size)
    batch_size = min(arguments.batch_size, len(dataset))
    results = []
    for workers in arguments.workers:
        with Loader(
            dataset, transform, batch_size=batch_size, shuffle=True, drop_last=True, seed=0, num_workers=workers
        ) as loader:
            for _ in loader.epoch(0):
                pass
            images, elapsed, _ = run(loader, arguments.seconds, step=0)
            _, stepped, waited = run(loader, arguments.seconds, step=arguments.step_ms / 1000)
        results.append(
            {
                "workers": workers,
                "images_per_second": round(images / elapsed, 1),
                "waiting_share": round(waited / stepped, 3),
                "bad_samples": len(loader.bad),
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder of images or of tar shards")
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({0, 1, 2, os.cpu_count() or 1}))
    parser.add_argument("--transform", default="MoCoV2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--step-ms", type=float, default=100.0, help="the trainer's work a batch")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        results = measure(arguments)
    except UserError as error:
        sys.exit(f"loader.py: {error}")
    if arguments.json:
        keys = ("root", "transform", "size", "batch_size", "step_ms")
        print(json.dumps({key: getattr(arguments, key) for key in keys} | {"cores": os.cpu_count(), "loader": results}))
        return
    table = Table("workers", "images/s", f"waiting, {arguments.step_ms:g} ms a batch", "bad")
    for result in results:
        share = f"{result['waiting_share']:.1%}"
        table.add_row(str(result["workers"]), f"{result['images_per_second']:,}", share, str(result["bad_samples"]))
    Console().print(table)


if __name__ == "__main__":
    main()
