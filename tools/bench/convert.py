"""Time and memory of `passl-convert` on a checkpoint as facebookresearch/simsiam writes it: ResNet-50 with optimizer.

    python tools/bench/convert.py [--rounds 3] [--folder FOLDER] [--json]

The file (about 300 MB, random weights) is written first; each round converts it in a new process: weights alone with
proof, as the command does, and without a network; and into a folder with the momentum. Memory is the process's peak of
resident memory (VmHWM), PaddlePaddle's own about 300 MB included where a network runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from passl_simsiam.checkpoint.layouts import KINDS, backbone_names
from passl_simsiam.checkpoint.writers import write_pth

CHILD = """
import shutil, sys, time
from pathlib import Path
start = time.perf_counter()
how, source, target = sys.argv[1:]
if how == "tensors only":
    from passl_simsiam.checkpoint.convert import convert
    convert(source, target)
else:
    from passl_simsiam.commands.convert import main
    code = main([source, target] + (["--with-optimizer"] if how == "with optimizer" else []))
    assert code == 0
seconds = time.perf_counter() - start
# Not ru_maxrss: a child inherits its parent's.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(f"MEASURED {seconds} {peak}")
"""


def checkpoint() -> dict[str, Any]:
    """An official pretraining checkpoint of a ResNet-50, momentum included; float32 noise."""
    rng = np.random.default_rng(0)
    state: dict[str, np.ndarray] = {}

    def add(kind: str, name: str, shape: tuple[int, ...], bias: bool = True) -> None:
        for _, tensor in KINDS[kind]:
            if tensor == "bias" and not bias:
                continue
            size = shape if tensor == "weight" and kind != "bn" else shape[:1]
            values = rng.standard_normal(size, dtype="float32") * 0.05
            state[f"module.{name}.{tensor}"] = np.abs(values) + 0.5 if tensor in ("running_var",) else values
        if kind == "bn":
            state[f"module.{name}.num_batches_tracked"] = np.array(500_400)

    entered = channels = 3
    for kind, name, _ in backbone_names(50, "torchvision"):
        if name == "conv1":
            shape: tuple[int, ...] = (64, 3, 7, 7)
        elif kind == "conv":
            narrow, inside = 64 * 2 ** (int(name[5]) - 1), name.split(".", 2)[2]
            entered = channels if inside == "conv1" else entered
            source = entered if inside == "downsample.0" else channels
            wide = inside in ("conv3", "downsample.0")
            shape = (4 * narrow if wide else narrow, source, *((3, 3) if inside == "conv2" else (1, 1)))
        if kind == "conv":
            channels = shape[0]
        add(kind, f"encoder.{name}", shape if kind == "conv" else (channels,))
    for i in (0, 3, 6):
        add("linear", f"encoder.fc.{i}", (2048, 2048), bias=i == 6)
        add("bn", f"encoder.fc.{i + 1}", (2048,))
    for part in ("weight", "bias"):
        del state[f"module.encoder.fc.7.{part}"]
    add("linear", "predictor.0", (512, 2048), bias=False)
    add("bn", "predictor.1", (512,))
    add("linear", "predictor.3", (2048, 512))
    trained = [name for name in state if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    momentum = {
        number: {"momentum_buffer": rng.standard_normal(state[name].shape, dtype="float32") * 0.01}
        for number, name in enumerate(trained)
        if name != "module.encoder.fc.6.bias"
    }
    groups = [{"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "params": list(range(len(trained)))}]
    return {
        "epoch": 100,
        "arch": "resnet50",
        "state_dict": state,
        "optimizer": {"state": momentum, "param_groups": groups},
    }


def measure(how: str, source: Path, target: Path) -> tuple[float, int]:
    """Seconds and peak bytes of one conversion in a new process."""
    command = [sys.executable, "-c", CHILD, how, str(source), str(target)]
    # The command chooses its threads, which need memory too; a program that starts this one may have chosen its own.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    _, seconds, peak = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED")).split()
    return float(seconds), int(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write the files; by default a temporary folder")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        source = folder / "checkpoint_0099.pth.tar"
        write_pth(source, checkpoint())
        size, rows = source.stat().st_size, []
        for how in ("tensors only", "with proof", "with optimizer"):
            runs = []
            for number in range(arguments.rounds):
                suffix = "" if how == "with optimizer" else ".safetensors"
                runs.append(measure(how, source, folder / f"{how.replace(' ', '_')}_{number}{suffix}"))
            seconds, peak = statistics.median(run[0] for run in runs), max(run[1] for run in runs)
            rows.append(
                {
                    "how": how,
                    "seconds": round(seconds, 2),
                    "peak_mb": peak // 10**6,
                    "times_the_file": round(peak / size, 2),
                }
            )
    result = {"file_mb": size // 10**6, "rounds": arguments.rounds, "conversions": rows}
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"file {result['file_mb']} MB")
    for row in rows:
        print(
            f"{row['how']:16} {row['seconds']:6.2f} s   peak {row['peak_mb']} MB, "
            f"{row['times_the_file']} times the file"
        )


if __name__ == "__main__":
    main()
