"""The same recipe on one and on several processes is the same training."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from passl_simsiam.log import read_metrics

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "configs/simsiam_r18_pt_digits.yaml"
SMALL = ["Global.epochs=1", "Global.print_batch_step=1", "Global.device=cpu", "Model.backbone.width=4"]
SMALL += ["Model.neck.hidden_channels=32", "Model.neck.out_channels=32", "Evaluation.knn.every_epochs=1"]
SMALL += [
    "Evaluation.baselines=false",
    "Evaluation.pictures=false",
    "Evaluation.few_label={labels_per_class: [5], draws: 2}",
]


LAUNCHER = [sys.executable, "-m", "paddle.distributed.launch"]
#: What `passl-train --nproc 2` does, with the module of this folder in place of passl-train's.
NPROC = (
    "import argparse, sys; from passl_simsiam.commands.launch import launch; "
    "launch('double', argparse.Namespace(nproc=2, argv=sys.argv[1:]), None)"
)


def train(folder: Path, launches: list[list[str]], *overrides: str) -> list[dict]:
    """Train the small recipe in float64, by one command on each "node"; its records."""
    arguments = ["-c", str(RECIPE), "-o", *SMALL, f"Global.output_dir={folder}", *overrides]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "CUDA_VISIBLE_DEVICES"))}
    environment["PYTHONPATH"] = str(HERE)
    nodes = [
        subprocess.Popen(
            [*launch, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for launch in launches
    ]
    said = [node.communicate(timeout=500)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * len(nodes), "\n".join(text[-3000:] for text in said)
    return read_metrics(folder / "metrics.jsonl")


def plain() -> list[list[str]]:
    return [[sys.executable, str(HERE / "double.py")]]


def by_hand(folder: Path, processes: int) -> list[list[str]]:
    """The launcher on one machine."""
    options = ["--nproc_per_node", str(processes), "--log_dir", str(folder / "log")]
    return [[*LAUNCHER, *options, str(HERE / "double.py")]]


def short_form() -> list[list[str]]:
    """`--nproc 2`."""
    return [[sys.executable, "-c", NPROC]]


def two_nodes(folder: Path) -> list[list[str]]:
    """The launcher on two machines, both of them this one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        master = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--nnodes", "2", "--master", master, "--nproc_per_node", "1", "--log_dir"]
    return [[*LAUNCHER, *options, str(folder / f"log{node}"), str(HERE / "double.py")] for node in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return train(tmp_path_factory.mktemp("alone") / "run", plain())


def losses(records: list[dict]) -> list[float]:
    return [record["train/loss"] for record in records if "train/loss" in record]


def scores(records: list[dict]) -> list[float]:
    return [record["eval/knn_top1"] for record in records if "eval/knn_top1" in record]


@pytest.mark.parametrize(
    "form",
    [
        "two nodes",
        pytest.param("short form", marks=pytest.mark.slow),
        pytest.param("by hand", marks=pytest.mark.slow),
        pytest.param("four", marks=pytest.mark.slow),
    ],
)
def test_losses_and_knn(alone: list[dict], tmp_path: Path, form: str) -> None:
    """1433 images, half of which nobody can have exactly, are the kNN's bank."""
    launches = {
        "two nodes": two_nodes(tmp_path),
        "short form": short_form(),
        "by hand": by_hand(tmp_path, 2),
        "four": by_hand(tmp_path, 4),
    }
    together = train(tmp_path / "run", launches[form])
    assert len(losses(together)) == 22
    assert losses(together) == pytest.approx(losses(alone), rel=1e-6)
    assert scores(together) == scores(alone) != []


@pytest.mark.slow
def test_three_processes_share_what_three_do_not_divide(tmp_path: Path) -> None:
    """1433 images and 364 queries in batches of 63: the last ones leave 2 and 1 over."""
    batch = ["DataLoader.Train.sampler.batch_size=63", "DataLoader.Eval.sampler.batch_size=63", "Global.epochs=1"]
    one = train(tmp_path / "one", plain(), *batch)
    three = train(tmp_path / "three", by_hand(tmp_path, 3), *batch)
    assert losses(three) == pytest.approx(losses(one), rel=1e-6)
    assert scores(three) == scores(one) != []


def test_without_synchronised_batch_norm_it_is_another_training(alone: list[dict], tmp_path: Path) -> None:
    """So the equality above is the synchronisation's doing."""
    apart = train(tmp_path / "run", by_hand(tmp_path, 2), "Global.sync_batch_norm=false", "Global.max_steps=2")
    assert losses(apart)[0] != pytest.approx(losses(alone)[0], rel=1e-6)


@pytest.mark.slow
def test_accumulated_gradients_are_averaged_once(tmp_path: Path) -> None:
    """Each part of a batch is the same samples on one process and on two."""
    parts = ["Global.accumulate_steps=2", "Global.max_steps=8"]
    one = train(tmp_path / "one", plain(), *parts)
    two = train(tmp_path / "two", by_hand(tmp_path, 2), *parts)
    assert len(losses(two)) == 8
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
