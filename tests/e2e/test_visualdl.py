"""A run's VisualDL folder in the real server, opened in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from passl_simsiam.evaluation.pictures import view_grid
from passl_simsiam.log import RunLog

MAGENTA = (255, 0, 255)  # nothing on VisualDL's pages has this colour
CLASSES = ["cat", "dog", "kind, with a comma"] * 20
POINTS = np.random.default_rng(1).normal(size=(len(CLASSES), 8)).astype(np.float32)
LINE_BLUE = (41, 50, 225)  # of the first run's curves


def write_run(folder: Path, steps: range, resume_step: int | None = None) -> None:
    with RunLog(folder, resume_step=resume_step) as log:
        for step in steps:
            log.record({"step": step, "epoch": 1, "train/loss": -step / 100, "health/std": 0.02})
        if resume_step is None:
            log.text("config", "Global:\n  epochs: 1", 0)
            log.histogram("health/channel_std_of_z", np.random.default_rng(0).normal(0.02, 0.002, 512), steps[-1])
            log.embeddings("features", POINTS, CLASSES, steps[-1])
            views = np.broadcast_to(np.array(MAGENTA, np.uint8), (4, 16, 16, 3))
            log.image("views", view_grid([views, views]), steps[-1])


@dataclass
class Server:
    """A VisualDL server and the run that it shows."""

    address: str
    run: Path

    def get(self, path: str, **query: object) -> bytes:
        url = f"{self.address}/app/api/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read()

    def data(self, path: str, **query: object):
        answer = json.loads(self.get(path, **query))
        assert answer["status"] == 0, answer
        return answer["data"]

    def of(self, kind: str, tag: str):
        return self.data(f"{kind}/list", run=self.run / "vdl", tag=tag)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    run = tmp_path / "run"
    write_run(run, range(1, 51))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "visualdl.server.app", "--logdir", str(run), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--disable-telemetry"]
    with (tmp_path / "server.txt").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "HOME": str(tmp_path)}, start_new_session=True
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", run)
        for _ in range(300):
            assert process.poll() is None, (tmp_path / "server.txt").read_text()
            try:
                server.get("runs")
                break
            except urllib.error.URLError:
                time.sleep(0.2)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_server_has_curves_images_histograms_points_and_texts(server):
    assert server.data("runs") == [str(server.run / "vdl")]
    assert sorted(server.data("scalar/tags")["tags"][0]) == ["health/std", "train/loss"]
    curve = server.of("scalar", "train/loss")
    assert [step for _, step, _ in curve] == list(range(1, 51))
    np.testing.assert_allclose([loss for _, _, loss in curve], -np.arange(1, 51) / 100, rtol=1e-6)
    assert [image["step"] for image in server.of("image", "views")] == [50]
    picture = Image.open(io.BytesIO(server.get("image/image", run=server.run / "vdl", tag="views", index=0)))
    assert picture.convert("RGB").getpixel((10, 10)) == MAGENTA
    ((_, step, bins),) = server.of("histogram", "health/channel_std_of_z")
    assert (step, sum(count for _, _, count in bins)) == (50, 512)
    (points,) = server.data("embedding/list")
    assert points["shape"] == [60, 8]
    tensor = np.frombuffer(server.get("embedding/tensor", name=points["name"]), np.float32)
    np.testing.assert_array_equal(tensor.reshape(60, 8), POINTS)
    assert server.get("text/text", run=server.run / "vdl", tag="config", index=0) == b"Global:\n  epochs: 1"


def test_a_server_left_open_survives_a_resume_and_a_clean_resume_goes_on_in_it(server):
    write_run(server.run, range(51, 61), resume_step=50)
    assert [step for _, step, _ in server.of("scalar", "train/loss")] == list(range(1, 61))
    write_run(server.run, range(31, 200), resume_step=30)
    assert [step for _, step, _ in server.of("scalar", "train/loss")] == list(range(1, 61))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_pages_show_curves_and_images(server, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{server.address}/app/scalar")
        assert browser.wait_until(lambda page: count(page, LINE_BLUE) > 200), "no curve was drawn"
        assert {"health", "train"} <= set(re.findall(r">(\w+)<", browser.html()))
        browser.open(f"{server.address}/app/image")
        assert browser.wait_until(lambda page: count(page, MAGENTA) > 5000), "no picture was shown"
        assert ">views<" in browser.html()


def count(browser: Browser, color: tuple[int, int, int]) -> int:
    """Pixels of `color` below the page's head and left of its controls."""
    return int((browser.pixels()[180:, :1100] == color).all(axis=2).sum())
