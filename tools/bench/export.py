"""Latency of a network in Paddle's dygraph, in Paddle Inference and in ONNX Runtime, on one CPU thread.

    python tools/bench/export.py [--case r18 r50] [--seconds 5] [--json]

Weights are random: they do not change the time. Each engine gets the same normalised float32 batches, arrays in and
arrays out; they take turns, so that whatever else the machine does falls on all of them. The median of the turns is
reported, and the fastest, which a busy machine disturbs least. The exported models are checked against the network
first, as every export is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from rich.console import Console
from rich.table import Table

from passl_simsiam.errors import UserError
from passl_simsiam.runtime import prepare_environment


class Case(NamedTuple):
    title: str
    backbone: str
    width: int
    stem: str
    size: int
    batches: tuple[int, ...]


CASES = {
    "r18": Case("ResNet-18, width 16, 32 px", "ResNet18", 16, "cifar", 32, (1, 3, 64)),
    "r50": Case("ResNet-50, 224 px", "ResNet50", 64, "imagenet", 224, (1,)),
}


def measure(case: Case, seconds: float) -> list[dict[str, Any]]:
    """The milliseconds of each engine and batch size."""
    import paddle

    from passl_simsiam.export.folder import export
    from passl_simsiam.export.formats import FORMATS
    from passl_simsiam.export.network import Network
    from passl_simsiam.export.quiet import quiet
    from passl_simsiam.registry import BACKBONES

    paddle.seed(0)
    backbone = BACKBONES.get(case.backbone)(width=case.width, stem=case.stem)
    backbone.eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    network = Network(backbone, "features", case.size, mean, std, {"name": "Resize", "size": case.size})

    def dygraph(batch: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return backbone(paddle.to_tensor(batch)).numpy()

    with tempfile.TemporaryDirectory() as folder, quiet():
        out = Path(folder) / "out"
        export(network, out, formats=tuple(FORMATS))
        engines = {"dygraph": dygraph, **{name: FORMATS[name].open(out) for name in FORMATS}}
        results = []
        for size in case.batches:
            shape = (size, 3, case.size, case.size)
            batch = np.random.default_rng(0).standard_normal(shape, np.float32)
            times = take_turns(engines, batch, seconds)
            results.append(
                {
                    "network": case.title,
                    "batch": size,
                    "turns": len(times["dygraph"]),
                    "median_ms": {name: round(1000 * statistics.median(t), 3) for name, t in times.items()},
                    "fastest_ms": {name: round(1000 * min(t), 3) for name, t in times.items()},
                }
            )
    return results


def take_turns(
    engines: dict[str, Callable[[np.ndarray], np.ndarray]], batch: np.ndarray, seconds: float
) -> dict[str, list[float]]:
    """Seconds of each run of each engine, after two that do not count; `seconds` in all, five turns at least."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    start = time.perf_counter()
    while len(times["dygraph"]) < 7 or time.perf_counter() - start < seconds:
        for name, run in engines.items():
            begin = time.perf_counter()
            run(batch)
            times[name].append(time.perf_counter() - begin)
    return {name: t[2:] for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=float, default=5.0, help="for each network and batch size")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    prepare_environment(threads=1)
    try:
        results = [row for case in arguments.case for row in measure(CASES[case], arguments.seconds)]
    except UserError as error:
        sys.exit(f"export.py: {error}")
    if arguments.json:
        print(json.dumps({"threads": 1, "export": results}))
        return
    table = Table("network", "batch", *(f"{name}, median (fastest) ms" for name in results[0]["median_ms"]), "turns")
    for row in results:
        times = (f"{value:,.2f} ({row['fastest_ms'][name]:,.2f})" for name, value in row["median_ms"].items())
        table.add_row(row["network"], str(row["batch"]), *times, str(row["turns"]))
    Console().print(table)


if __name__ == "__main__":
    main()
