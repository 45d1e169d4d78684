"""The process around a run: what must be in the environment before `import paddle`, the device, the seed.

Paddle reads thread counts and MKL switches when it is imported, so `prepare_environment` comes before the first
`import paddle` anywhere in a command or a test session.
"""

from __future__ import annotations

import logging
import os
import platform
import random
import sys
import warnings
from pathlib import Path

from passl_simsiam.errors import UserError


def cpu_vendor() -> str:
    """The processor's vendor string ("AuthenticAMD", "GenuineIntel"), or "" where it is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def usable_cores() -> int:
    """Cores this process may run on; unlike os.cpu_count(), a container's or scheduler's limit counts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_environment(threads: int | None = None, ranks: int = 1) -> dict[str, str]:
    """Set what Paddle reads at import time, unless the user has set it, and silence its import noise.

    Args:
        threads: CPU threads of this process; None shares the usable cores among `ranks`.
        ranks: processes that train on this machine, unless the launcher tells.

    Returns:
        The variables set here, for the log. Called again, or after `import paddle`, it returns {}: too late to matter.
    """
    if "paddle" in sys.modules:
        return {}
    if "PADDLE_LOCAL_SIZE" in os.environ:
        ranks = int(os.environ["PADDLE_LOCAL_SIZE"])
        if os.environ.get("OMP_NUM_THREADS") == "1":
            del os.environ["OMP_NUM_THREADS"]  # not the user's, but what the launcher got when it imported Paddle
    wanted = {"OMP_NUM_THREADS": str(threads or max(1, usable_cores() // ranks)), "GLOG_minloglevel": "2"}
    if cpu_vendor() == "AuthenticAMD":
        # The MKL inside Paddle otherwise takes its slow path on AMD processors: 57 against 172 GFLOP/s in a GEMM.
        wanted["MKL_DEBUG_CPU_TYPE"] = "5"
    chosen = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(chosen)
    for noise in ("No ccache found", "When training, we now always track global mean and variance"):
        warnings.filterwarnings("ignore", message=noise)
    _import_quietly()
    chosen.pop("GLOG_minloglevel", None)
    return chosen


def _import_quietly() -> None:
    """Import paddle with the notes that it prints on stderr while importing left out; errors still raise."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import paddle  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
    logging.getLogger("paddle").setLevel(logging.ERROR)


def choose_device(device: str) -> str:
    """Make `device` ("auto", "cpu", "gpu", "gpu:N") Paddle's and return what was chosen. Raises UserError."""
    import paddle

    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "auto":
        mine = os.environ.get("FLAGS_selected_gpus", "0").split(",")[0]  # noqa: SIM112  the launcher's spelling
        device = f"gpu:{mine}" if has_gpu else "cpu"
    if device.startswith("gpu") and not has_gpu:
        raise UserError(f"Global.device: {device!r} is not here: this Paddle sees no GPU; use cpu or auto")
    paddle.set_device(device)
    return str(paddle.get_device())


def seed_everything(seed: int) -> None:
    """Seed Paddle (weights), numpy and Python. Views and shuffling have keyed generators of their own."""
    import numpy as np
    import paddle

    random.seed(seed)
    np.random.seed(seed % 2**32)
    paddle.seed(seed)
