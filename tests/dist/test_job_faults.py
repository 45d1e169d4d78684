"""Faults of a whole job under Paddle's launcher: a rank killed in training, and one that is slower than gloo waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "configs/simsiam_r18_pt_digits.yaml"
SLOW_MAIN = """
    import sys, time
    from passl_simsiam import distributed, runtime
    runtime.prepare_environment(threads=1)
    world = distributed.from_environment()
    distributed.start(world)
    if sys.argv[1] == "waiting":
        with distributed.main_only(world, "a long save") as is_main:
            if is_main:
                time.sleep(35)
    elif world.is_main:
        time.sleep(35)
    try:
        print("sum", distributed.total([1.0], world), flush=True)
    except RuntimeError as error:
        distributed.stop(error)
        raise
    distributed.stop()
"""


def launch(log: Path, *command: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "CUDA_VISIBLE_DEVICES"))}
    options = ["--nproc_per_node", "2", "--log_dir", str(log)]
    return subprocess.Popen(
        [sys.executable, "-m", "paddle.distributed.launch", *options, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("how", "works"), [("waiting", True), ("not waiting", False)])
def test_the_main_rank_may_take_longer_than_gloo_waits(tmp_path: Path, how: str, works: bool) -> None:
    script = tmp_path / "slow_main.py"
    script.write_text(textwrap.dedent(SLOW_MAIN))
    job = launch(tmp_path / "log", str(script), how)
    job.communicate(timeout=200)
    logs = [(tmp_path / f"log/workerlog.{rank}").read_text() for rank in (0, 1)]
    assert (job.returncode == 0) == works, logs
    assert all("sum [2.0]" in log for log in logs) == works
    if not works:
        assert "rank 1" in logs[1]
        assert "TIMEOUT" in logs[1]


def test_a_rank_killed_in_training_is_named_and_ends_the_job(tmp_path: Path) -> None:
    arguments = ["-c", str(RECIPE), "-o", "Global.device=cpu", "Model.backbone.width=4", "Global.print_batch_step=1"]
    arguments += ["Evaluation.baselines=false"]
    run = tmp_path / "run"
    job = launch(tmp_path / "log", str(HERE / "double.py"), *arguments, f"Global.output_dir={run}")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not _has_trained(run / "metrics.jsonl"):
        time.sleep(0.5)
    log = tmp_path / "log/workerlog.0"
    victim = next(
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_rank_1(entry, str(run))
    )
    before = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    job.communicate(timeout=100)
    assert time.monotonic() - before < 40
    assert job.returncode != 0
    said = log.read_text()
    assert f"error: rank 1 [process {victim} on" in said, said[-3000:]
    assert "died; last seen at" in said
    assert "in fit" in said  # the stack of the rank that was left


def _has_trained(metrics: Path) -> bool:
    return metrics.exists() and "train/loss" in metrics.read_text()


def _is_rank_1(process: Path, run: str) -> bool:
    try:
        environment = (process / "environ").read_bytes().split(b"\0")
        return run.encode() in (process / "cmdline").read_bytes() and b"PADDLE_TRAINER_ID=1" in environment
    except OSError:
        return False
