"""The state of every global random generator as plain data, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and Paddle's global generators (the CPU's and, if in use, the GPUs') for JSON."""
    import paddle

    kind, words, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(words).tolist(), position, has_gauss, cached],
    }
    # A Paddle state is (device, seed, offset, engine), the engine as the bytes of a text or of a binary record.
    for device in _devices():
        states = paddle.get_rng_state(device)
        state[f"paddle.{device}"] = [(*s.__getstate__()[:3], bytes(s.__getstate__()[3]).hex()) for s in states]
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set every generator that `random_state` recorded, also after a trip through JSON.

    GPU states are restored only where as many GPUs are in use as then.
    """
    import paddle
    from paddle.base.core import GeneratorState

    version, words, cached = state["python"]
    random.setstate((version, tuple(words), cached))
    np.random.set_state(tuple(state["numpy"]))
    for device in _devices():
        restored = []
        for index, seed, offset, engine in state.get(f"paddle.{device}", []):
            generator = GeneratorState.__new__(GeneratorState)
            generator.__setstate__((index, seed, offset, list(bytes.fromhex(engine))))
            restored.append(generator)
        if len(restored) == len(paddle.get_rng_state(device)):
            paddle.set_rng_state(restored, device)


def _devices() -> list[str]:
    import paddle

    current = paddle.get_device().partition(":")[0]
    return ["cpu"] if current == "cpu" else ["cpu", current]
