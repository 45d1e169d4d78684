"""A rank that never joins does not keep the others waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Rank 1 of 2, whose rank 0 is nowhere.
CODE = """
from passl_simsiam import distributed, runtime
runtime.prepare_environment(1)
distributed.JOINING = 3.0
distributed.start(distributed.from_environment(), 1.0)
"""


def test_a_rank_that_never_joins_is_not_waited_for(tmp_path: Path) -> None:
    place = {"PADDLE_TRAINER_ID": "1", "PADDLE_TRAINERS_NUM": "2", "PADDLE_MASTER": "127.0.0.1:1"}
    place |= {"PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:1,127.0.0.1:2", "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:2"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "CUDA_VISIBLE"))} | place
    command = [sys.executable, "-c", CODE]
    said = tmp_path / "said"
    with said.open("wb") as file:  # not a pipe: Paddle leaves a helper behind that would keep it open
        done = subprocess.run(command, env=environment, stdout=file, stderr=file, timeout=120, check=False)
    assert done.returncode == 1
    assert "Timeout (0:00:03)!" in said.read_text()
    assert "init_parallel_env" in said.read_text()  # where it stood
