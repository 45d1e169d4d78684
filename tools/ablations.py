"""Train every recipe of configs/ablations with several seeds, one after the other, and write the table of them.

    python tools/ablations.py --epochs 30                 # trains what is missing, then writes docs/ablations.md
    python tools/ablations.py --epochs 30 --only-table    # the table of what is there

Runs that ended, well or not, are not repeated; one that was cut short starts anew.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl_simsiam import __version__
from passl_simsiam.config import load_config
from passl_simsiam.log import read_metrics

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "configs/simsiam_r18_pt_digits.yaml"
#: By the paper's sections; the base recipe stands first.
ORDER = (
    *("no_stop_gradient", "no_predictor", "fixed_predictor", "decaying_predictor"),
    *("batch_16", "batch_32", "batch_128", "batch_256"),
    *("bn_none", "bn_hidden", "bn_all", "cross_entropy", "asymmetric", "asymmetric_2x"),
)
BASE_PAPER = "68.1 % (table 2, batch 256); 67.7 % with a decaying predictor, to which figure 2 and table 1 compare"


@dataclass(frozen=True)
class Variant:
    """A recipe with the first line of its head, and what the paper found, from there too."""

    name: str
    path: Path
    title: str
    paper: str


def variants() -> list[Variant]:
    """The base recipe and the ablations, in the order of the table."""
    found = {path.stem: path for path in (ROOT / "configs/ablations").glob("*.yaml")}
    if set(ORDER) != set(found):
        raise SystemExit(f"ORDER and configs/ablations differ: {sorted(set(ORDER) ^ set(found))}")
    return [Variant("default", BASE, "The recipe as it is.", BASE_PAPER), *(_variant(found[name]) for name in ORDER)]


def _variant(path: Path) -> Variant:
    head = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    start = next(i for i, line in enumerate(head) if line.startswith("Paper:"))
    return Variant(path.stem, path, head[0], " ".join(head[start:]).removeprefix("Paper:").strip())


def epochs_of(variant: Variant, epochs: int) -> int:
    """A recipe that trains longer than the base does so here too, in the same proportion."""
    return round(epochs * load_config(variant.path).Global.epochs / load_config(BASE).Global.epochs)


def train(variant: Variant, seed: int, epochs: int, folder: Path) -> None:
    """One run, in a process of its own; its exit code is what says that it ended."""
    if (folder / "exit_code").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    count = epochs_of(variant, epochs)
    settings = {
        "Global.output_dir": folder,
        "Global.seed": seed,
        "Global.epochs": count,
        "Global.save_every_epochs": count,
        "Evaluation.knn.every_epochs": count,
        "Evaluation.few_label": "null",
        "Evaluation.baselines": "true" if variant.path == BASE else "false",
        "Health.guard": "warn",  # a collapse is a result here
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    began = time.monotonic()
    command = [sys.executable, str(ROOT / "tools/train.py"), "-c", str(variant.path), "-o", *overrides]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    print(f"{variant.name}, seed {seed}: exit code {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1:], flush=True)
    if done.returncode in (0, 1):  # 1: training itself failed, which another try would too
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "exit_code").write_text(f"{done.returncode}\n")


def last(folder: Path) -> dict[str, Any] | None:
    """The last epoch's record of a run that ended well."""
    code = folder / "exit_code"
    if not code.exists() or code.read_text().strip() != "0":
        return None
    return [record for record in read_metrics(folder / "metrics.jsonl") if "eval/knn_top1" in record][-1]


COLUMNS: dict[str, Callable[[dict[str, Any]], float]] = {
    "kNN top-1 (%)": lambda r: 100 * r["eval/knn_top1"],
    "std of z (% of 1/√d)": lambda r: 100 * r["health/relative_std"],
    "rank of z": lambda r: r["health/rank_z"],
    "rank of features": lambda r: r["health/rank"],
    "loss": lambda r: r["train/epoch_loss"],
}


def row(variant: Variant, folders: Sequence[Path]) -> str:
    records = [record for folder in folders if (record := last(folder))]
    failed = sum((folder / "exit_code").exists() for folder in folders) - len(records)
    cells = [_spread([column(record) for record in records]) for column in COLUMNS.values()]
    note = f" ({failed} of {len(folders)} runs failed)" if failed else ""
    link = f"[{variant.name}](../{variant.path.relative_to(ROOT).as_posix()})"
    return f"| {link}: {variant.title}{note} | {' | '.join(cells)} | {variant.paper} |"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    digits = 1 if abs(values[0]) >= 1 else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def table(out: Path, seeds: Sequence[int], epochs: int) -> str:
    config = load_config(BASE)
    baseline = ""
    for record in read_metrics(out / f"default_{seeds[0]}/metrics.jsonl"):
        if record["step"] == 0 and "eval/raw_pixels_knn_top1" in record:
            baseline = (
                f" The same kNN gives {100 * record['eval/knn_top1']:.1f} % on the features of random weights (seed "
                f"{seeds[0]}) and {100 * record['eval/raw_pixels_knn_top1']:.1f} % on raw pixels."
            )
    rows = [row(variant, [out / f"{variant.name}_{seed}" for seed in seeds]) for variant in variants()]
    dashes = "---:|" * len(COLUMNS)
    k = config.Evaluation.knn.k  # type: ignore[union-attr]
    paragraphs = (
        "What SimSiam's parts are there for: the paper's ablations (Chen and He, arXiv:2011.10566, section 4) on "
        "scikit-learn's 1,797 digits, and the paper's own finding (ImageNet, ResNet-50, 100 epochs, linear top-1) "
        f"beside each. Mean ± standard deviation over seeds {', '.join(map(str, seeds))}; {epochs} epochs of batch "
        f"{config.DataLoader.Train.sampler.batch_size}, where the recipe itself has {config.Global.epochs}. Made on a "
        f"CPU by `python tools/ablations.py --epochs {epochs}` with passl_simsiam {__version__}.",
        f"kNN: k={k}, cosine, backbone features, the training images as bank and the 364 test images as queries, so "
        f"that one image is 0.3 points.{baseline} The std of z/|z| is that within a batch, the effective ranks are of "
        "the last 512 views seen in training, the loss is the mean of the last epoch. A healthy z spreads nearly as "
        "directions at random do (100 %), in tens of directions. A collapsed one keeps about one direction; behind "
        "batch norm some spread stays, for a few images of each batch then stand apart from all others.",
    )
    text = "\n\n".join(textwrap.fill(paragraph, 120, break_on_hyphens=False) for paragraph in paragraphs)
    return f"""# Ablations on digits

{text}

| | {" | ".join(COLUMNS)} | paper |
|---|{dashes}---|
{chr(10).join(rows)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--epochs", type=int, default=30, help="of the base recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "output/ablations", help="where the runs are kept")
    parser.add_argument("--only-table", action="store_true", help="train nothing")
    parser.add_argument("--doc", type=Path, default=ROOT / "docs/ablations.md")
    arguments = parser.parse_args(argv)
    for seed in arguments.seeds:
        for variant in variants():
            if not arguments.only_table:
                train(variant, seed, arguments.epochs, arguments.out.resolve() / f"{variant.name}_{seed}")
    arguments.doc.parent.mkdir(parents=True, exist_ok=True)
    arguments.doc.write_text(table(arguments.out, arguments.seeds, arguments.epochs), encoding="utf-8")
    print(arguments.doc)


if __name__ == "__main__":
    main()
