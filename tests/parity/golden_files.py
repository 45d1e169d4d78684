"""The reference numbers of the parity tests, and the rule by which their inputs and start weights are drawn.

They were computed once with PyTorch (SimSiam) and numpy (LARC). A copy lies in golden/; PASSL_GOLDEN names another
folder with files of the same names, for cases of one's own.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(os.environ.get("PASSL_GOLDEN") or Path(__file__).parent / "golden")


def load(name: str) -> dict[str, Any]:
    """The cases of one file; none where it is absent, which the tests then report as a failure."""
    path = FOLDER / name
    return json.loads(path.read_text()) if path.is_file() else {}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that depend on the name alone, float64."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
