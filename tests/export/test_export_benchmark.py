"""The benchmark of exported models measures every engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_every_engine_is_measured(root: Path) -> None:
    for package in ("paddle2onnx", "onnxruntime"):
        pytest.importorskip(package)
    command = [sys.executable, str(root / "tools/bench/export.py"), "--case", "r18", "--seconds", "0.1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["export"]
    assert [row["batch"] for row in rows] == [1, 3, 64]
    for row in rows:
        assert set(row["median_ms"]) == {"dygraph", "paddle", "onnx"}
        assert row["turns"] >= 5
    first, last = rows[0]["median_ms"], rows[-1]["median_ms"]
    assert all(last[name] > 2 * first[name] > 0 for name in first)  # 64 images take longer than one
