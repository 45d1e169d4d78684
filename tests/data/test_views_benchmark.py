"""The benchmark of the views runs without its peers and prints what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np


def test_json(root: Path, tmp_path: Path) -> None:
    for k in range(3):
        image = np.random.default_rng(k).integers(256, size=(50, 60, 3), dtype=np.uint8)
        assert cv2.imwrite(str(tmp_path / f"{k}.jpg"), image)
    command = [
        sys.executable,
        "tools/bench/views.py",
        "--root",
        str(tmp_path),
        "--size",
        "32",
        "--rounds",
        "3",
        "--json",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=True)
    result = json.loads(done.stdout)
    assert set(result) == {"ours", "peers"}
    ours = result["ours"]
    assert 0 < ours["lowest"] <= ours["images_per_second"] <= ours["highest"]
    for peer in ("torchvision", "torchvision_uint8", "albumentations"):
        assert peer in result["peers"] or f"{peer} is left out" in done.stderr
