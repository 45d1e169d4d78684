"""Throughput of several processes against one on this machine, with the digits recipe on the CPU.

    python tools/bench/ranks.py --ranks 1 2 --steps 60 --json ranks.json

Each run is `passl-train --nproc N` with the machine's cores shared out among the processes, the global batch the same.
The figure is the median of the images a second that the run's records tell, the first ones left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from passl_simsiam import runtime
from passl_simsiam.log import read_metrics

RECIPE = Path(__file__).parents[2] / "configs/simsiam_r18_pt_digits.yaml"
SKIPPED = 10  # steps at the start, in which everything is met for the first time


def measure(ranks: int, steps: int, overrides: list[str]) -> dict[str, Any]:
    """Train `steps` steps with `ranks` processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "passl_simsiam.commands.train", "--nproc", str(ranks), "-c", str(RECIPE), "-o"]
        command += ["Global.device=cpu", "Global.print_batch_step=1", f"Global.max_steps={steps}"]
        command += ["Evaluation.knn=null", "Evaluation.few_label=null", "Evaluation.baselines=false", *overrides]
        subprocess.run([*command, f"Global.output_dir={folder}/run"], check=True, stdout=subprocess.DEVNULL)
        records = read_metrics(Path(folder) / "run/metrics.jsonl")
    rates = [r["train/images_per_second"] for r in records if "train/loss" in r][SKIPPED:]
    losses = [r["train/loss"] for r in records if "train/loss" in r]
    return {"ranks": ranks, "images_per_second": statistics.median(rates), "steps": len(rates), "loss": losses[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("-o", "--override", nargs="+", default=[], help="of the recipe")
    arguments = parser.parse_args()

    rows = [measure(ranks, arguments.steps, arguments.override) for ranks in arguments.ranks]
    table = Table(title=f"digits recipe, {runtime.usable_cores()} cores")
    for column in ("processes", "images/s", "against the first", "last loss"):
        table.add_column(column, justify="right")
    for row in rows:
        row["speedup"] = row["images_per_second"] / rows[0]["images_per_second"]
        cells = (str(row["ranks"]), f"{row['images_per_second']:.1f}", f"{row['speedup']:.2f}", f"{row['loss']:.4f}")
        table.add_row(*cells)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cores": runtime.usable_cores(), "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
