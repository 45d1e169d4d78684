"""The run's files: what is in them, that a resumed run continues them, and that trouble with them ends no run."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from visualdl import LogReader

from passl_simsiam.errors import UserError
from passl_simsiam.log import RunLog, messages_into, read_metrics
from passl_simsiam.log.progress import LINE_SECONDS, Progress


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """A curve as VisualDL itself reads it."""
    reader = LogReader(file_path=str(folder / "vdl" / "vdlrecords.log"))
    return [(point.id, point.value) for point in reader.get_data("scalar", tag)]


def write_run(folder: Path, steps: range, resume_step: int | None = None, scale: float = 1.0) -> None:
    with RunLog(folder, resume_step=resume_step) as log:
        for step in steps:
            log.record({"step": step, "epoch": step // 3, "train/loss": -step * scale})
            if step % 3 == 0:
                log.record({"step": step, "epoch": step // 3, "eval/knn_top1": step / 100})
                log.image("views", np.full((4, 6, 3), step, np.uint8), step)


def test_a_record_reaches_every_file(tmp_path):
    write_run(tmp_path, range(1, 8))
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert records[:4] == [
        {"step": 1, "epoch": 0, "train/loss": -1.0},
        {"step": 2, "epoch": 0, "train/loss": -2.0},
        {"step": 3, "epoch": 1, "train/loss": -3.0},
        {"step": 3, "epoch": 1, "eval/knn_top1": 0.03},
    ]
    table = rows(tmp_path)
    assert list(table[0]) == ["step", "epoch", "train/loss", "eval/knn_top1"]  # the column that came later included
    assert [{key: float(value) for key, value in row.items() if value} for row in table] == records
    assert scalars(tmp_path, "train/loss") == [(step, -step) for step in range(1, 8)]
    assert [step for step, _ in scalars(tmp_path, "eval/knn_top1")] == [3, 6]


@pytest.mark.parametrize("interruption", ["clean", "killed in mid-write"])
def test_a_resumed_run_continues_the_same_curves(tmp_path, interruption):
    write_run(tmp_path, range(1, 11))
    if interruption != "clean":
        for name, half in (("metrics.jsonl", b'{"step": 11, "ep'), ("vdl/vdlrecords.log", b"\x40\0\0\0\0\0\0\0half")):
            with (tmp_path / name).open("ab") as file:
                file.write(half)
    write_run(tmp_path, range(7, 13), resume_step=6, scale=2.0)
    expected = [(step, -step if step <= 6 else -2 * step) for step in range(1, 13)]
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(record["step"], record["train/loss"]) for record in records if "train/loss" in record] == expected
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == records
    assert scalars(tmp_path, "train/loss") == expected
    assert [step for step, _ in scalars(tmp_path, "eval/knn_top1")] == [3, 6, 9, 12]
    assert [row["step"] for row in rows(tmp_path)] == [str(record["step"]) for record in records]
    assert len(list((tmp_path / "vdl").iterdir())) == 1
    images = LogReader(file_path=str(tmp_path / "vdl" / "vdlrecords.log")).get_data("image", "views")
    assert [image.id for image in images] == [3, 6, 9, 12]


def test_resuming_beyond_the_end_keeps_everything_and_resuming_nothing_works(tmp_path):
    write_run(tmp_path, range(1, 4))
    write_run(tmp_path, range(4, 6), resume_step=99)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == [1, 2, 3, 4, 5]
    write_run(tmp_path / "new", range(6, 8), resume_step=5)
    assert [record["step"] for record in read_metrics(tmp_path / "new/metrics.jsonl")] == [6, 6, 7]


def test_a_new_run_replaces_the_metrics_of_an_old_one_but_not_its_text(tmp_path):
    for loss in (1.0, 2.0):
        with RunLog(tmp_path) as log:
            log.info(f"loss {loss}")
            log.record({"step": 1, "train/loss": loss})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 2.0}]
    assert scalars(tmp_path, "train/loss") == [(1, 2.0)]
    assert len(rows(tmp_path)) == 1
    assert [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "loss 1.0",
        "loss 2.0",
    ]


def test_values_that_are_no_numbers_become_valid_json(tmp_path):
    with RunLog(tmp_path) as log:
        log.record({"step": np.int64(1), "train/loss": np.float32("nan"), "train/lr": float("inf"), "note": 'a, "b"'})
        log.record({"step": 2, "train/loss": np.float64(0.5), "train/lr": 1, "note": None})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"step": 1, "train/loss": None, "train/lr": None, "note": 'a, "b"'},
        {"step": 2, "train/loss": 0.5, "train/lr": 1, "note": None},
    ]
    assert [row["train/loss"] for row in rows(tmp_path)] == ["", "0.5"]
    assert rows(tmp_path)[0]["note"] == 'a, "b"'
    assert scalars(tmp_path, "train/loss") == [(2, 0.5)]


def test_pictures_histograms_and_texts_are_what_visualdl_reads(tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    values = np.array([0.0, 1.0, 1.0, np.nan, 2.0])
    with RunLog(tmp_path) as log:
        log.image("views", picture, 3)
        log.image("grey", picture[..., :1], 3)
        log.histogram("std", values, 4)
        log.text("config", "a: 1", 0)
    reader = LogReader(file_path=str(tmp_path / "vdl" / "vdlrecords.log"))
    for tag, expected in (("views", picture), ("grey", picture[..., 0])):
        (image,) = reader.get_data("image", tag)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image.image.encoded_image_string))), expected)
    (histogram,) = reader.get_data("histogram", "std")
    assert (sum(histogram.histogram.hist), histogram.histogram.bin_edges[-1], histogram.id) == (4, 2.0, 4)
    (text,) = reader.get_data("text", "config")
    assert text.text.encoded_text_string == "a: 1"


def test_other_ranks_write_nothing(tmp_path, capsys):
    with RunLog(tmp_path / "run", rank=1) as log:
        log.info("hello")
        log.warn("careful")
        log.record({"step": 1, "train/loss": 1.0})
        log.image("views", np.zeros((2, 2, 3), np.uint8), 1)
        with log.progress(1) as bar:
            bar.update(images=8)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_console_has_plain_lines_where_there_is_no_terminal(tmp_path):
    stream = io.StringIO()
    with RunLog(tmp_path, stream=stream) as log:
        log.info("[bold]not markup[/bold] :smile: " + "long " * 40)
        log.warn("careful")
    assert stream.getvalue() == "[bold]not markup[/bold] :smile: " + "long " * 40 + "\nwarning: careful\n"
    assert "WARNING careful" in (tmp_path / "log.txt").read_text()


def test_terminal_shows_a_bar_and_log_txt_its_lines(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with RunLog(tmp_path, stream=stream) as log, log.progress(2, label="pretrain") as bar:
        log.info("[above] the bar")
        bar.update(images=4, note="loss 1.5")
        bar.update(images=4, note="loss 1.2")
    assert "━" in stream.getvalue()
    assert "[above] the bar" in stream.getvalue()
    text = (tmp_path / "log.txt").read_text()
    assert "pretrain step 2/2  loss 1.2" in text
    assert "━" not in text


def test_a_folder_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Global.output_dir: cannot write in .*file"):
        RunLog(tmp_path / "file" / "run")


FULL_DISK = """
import resource, sys
from passl_simsiam.log import RunLog

log = RunLog(sys.argv[1])
log.record({"step": 1, "train/loss": 1.0})
log.info("before")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # writes are cut short there, then fail
for step in range(2, 60):
    log.record({"step": step, "train/loss": 1.0})
    log.info("during")
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
log.record({"step": 60, "train/loss": 1.0})
log.close()
"""


def test_a_full_disk_is_said_once_and_leaves_whole_records(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning")]
    assert sorted(warnings) == [
        f"warning: cannot write {what} (File too large); the run goes on"
        for what in ("log.txt", "metrics.jsonl", "the VisualDL file")
    ]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps[0] == 1
    assert steps[-1] == 60
    assert len(steps) < 10
    recorded = [step for step, _ in scalars(tmp_path, "train/loss")]
    assert recorded[0] == 1
    assert recorded[-1] == 60
    assert len(recorded) < 10


def test_without_visualdl_the_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "visualdl.proto.record_pb2", None)
    with RunLog(tmp_path) as log:
        log.record({"step": 1, "train/loss": 1.0})
        log.text("config", "a", 0)
    assert "warning: no VisualDL record of this run" in capsys.readouterr().out
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_importing_the_log_imports_nothing_heavy():
    script = "import passl_simsiam.log, sys; print({'paddle', 'cv2', 'visualdl', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_making_a_log_prints_nothing(tmp_path):
    script = "import sys; from passl_simsiam.log import RunLog; RunLog(sys.argv[1]).close()"
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("", "")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_waiting_and_eta_are_over_the_last_steps():
    clock, lines = Clock(), []
    with Progress(200, start=20, label="pretrain", say=lines.append, clock=clock) as bar:
        assert (bar.images_per_second, bar.data_wait, bar.eta) == (0, 0, 0)
        for step in range(60):
            clock.now += 5.0 if step < 5 else 2.0  # the slow start falls out of the window
            bar.update(images=64, waited=0.5 * (step + 1), note="loss 1")
    assert bar.images_per_second == pytest.approx(32)
    assert bar.data_wait == pytest.approx(0.25)
    assert bar.eta == pytest.approx((200 - 80) * 2)
    assert lines[-1] == "pretrain step 80/200  loss 1  ETA 0:04:00  32 images/s  data wait 25%"
    assert len(lines) == pytest.approx((clock.now - 100) / LINE_SECONDS, abs=3)


def test_an_evaluation_does_not_count_as_a_slow_step():
    clock = Clock()
    with Progress(100, say=lambda line: None, clock=clock) as bar:
        for step in range(4):
            clock.now += 1
            bar.update(images=10, waited=0.1 * step)
        clock.now += 1000
        bar.restart(waited=5.0)
        clock.now += 1
        bar.update(images=10, waited=5.5)
    assert bar.images_per_second == pytest.approx(10)
    assert bar.data_wait == pytest.approx(0.5)
    assert bar.eta == pytest.approx(95)


def test_the_last_step_always_has_its_line():
    clock, lines = Clock(), []
    with Progress(3, say=lines.append, clock=clock) as bar:
        for _ in range(3):
            clock.now += 0.01
            bar.update(images=1)
    assert [line.split("  ")[0] for line in lines] == ["step 1/3", "step 3/3"]


def test_messages_of_the_package_go_into_the_runs_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    with RunLog(tmp_path, visualdl=False, stream=stream) as log, messages_into(log):
        logging.getLogger("passl_simsiam.data.loader").info("two workers")
        logging.getLogger("passl_simsiam.data.pool").warning("worker %d died", 7)
        logging.getLogger("elsewhere").warning("not ours")
    assert stream.getvalue().splitlines() == ["two workers", "warning: worker 7 died"]
    logging.getLogger("passl_simsiam.data.pool").warning("too late")
    assert "too late" not in stream.getvalue()
