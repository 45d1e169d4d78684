"""The benchmark of the loader runs on a user's folder and says what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

TOOL = Path(__file__).parents[2] / "tools" / "bench" / "loader.py"


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_rates_and_waiting_are_measured(tmp_path):
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), np.full((40, 40, 3), 60 * index, np.uint8))
    options = ["--size", 32, "--batch-size", 4, "--seconds", 0.3, "--step-ms", 20]
    result = run("--root", tmp_path, "--workers", 0, 1, *options, "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert [entry["workers"] for entry in figures["loader"]] == [0, 1]
    for entry in figures["loader"]:
        assert entry["images_per_second"] > 4
        assert 0 <= entry["waiting_share"] < 1
        assert entry["bad_samples"] == 0


def test_a_folder_without_images_is_refused_in_one_line(tmp_path):
    result = run("--root", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("loader.py: ImageFolder: no images in")
    assert result.stderr.count("\n") == 1
