"""What a checkpoint costs: time and bytes to save one, time to verify and load it, and to put it into the model.

python tools/bench/checkpoint.py -c configs/simsiam_r50_pt.yaml --folder /disk --rounds 5
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from passl_simsiam import build, runtime
from passl_simsiam.config import Config, load_config


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("-c", "--config", default="configs/simsiam_r50_pt.yaml")
    parser.add_argument("--folder", help="where to save: a folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    runtime.prepare_environment(config.Global.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(config, Path(folder), arguments.rounds)
    print(json.dumps(found) if arguments.json else "\n".join(f"{name}: {value:g}" for name, value in found.items()))
    return 0


def measure(config: Config, folder: Path, rounds: int) -> dict[str, float]:
    """Medians in seconds, and the checkpoint's size in MB (10^6 bytes)."""
    import paddle

    from passl_simsiam.checkpoint import io
    from passl_simsiam.checkpoint.weights import apply_weights

    model = build.model(config, SimpleNamespace(in_channels=3, classes=None), 224)
    optimizer = build.optimizer(config, build.parameter_groups(config, model))

    def save() -> Path:
        shutil.rmtree(folder / io.FOLDER, ignore_errors=True)
        return io.save(folder, "one", model=model.state_dict(), optimizer=optimizer.state_dict(), state={})

    def resume() -> None:
        saved = io.load(io.find(folder))
        apply_weights(model, saved.model)
        optimizer.load_state_dict({name: paddle.to_tensor(array) for name, array in saved.optimizer.items()})

    path = save()
    return {
        "megabytes": sum(file.stat().st_size for file in path.iterdir()) / 1e6,
        "save_seconds": median(save, rounds),
        "verify_and_load_seconds": median(lambda: io.load(io.find(folder)), rounds),
        "resume_seconds": median(resume, rounds),
    }


def median(work: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
