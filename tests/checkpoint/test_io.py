"""Checkpoints: exact, atomic under kills and full disks, and honest about damage."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from passl_simsiam.checkpoint import durable, io
from passl_simsiam.checkpoint.io import CheckpointError, clean, find, keep_last, load, mark_best, pointed, save
from passl_simsiam.checkpoint.tensors import read_tensors, write_tensors
from passl_simsiam.errors import UserError

WEIGHTS = {
    "backbone.conv1.weight": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype("float32"),
    "backbone.bn1._mean": np.array([np.nan, np.inf, -0.0, 1e-45], "float32"),
    "step": np.array(7, "int64"),
    "double": np.random.default_rng(1).normal(size=5),
    "half": np.arange(3, dtype="float16"),
    "flag": np.array([True, False]),
    "empty": np.zeros((0, 3), "float32"),
}


def put(run: Path, name: str, step: int = 0, **more: object) -> Path:
    weights = {"backbone.w": np.full(1000, step, "float32")}
    return save(
        run, name, model=weights, optimizer={"backbone.w": np.ones(1000, "float32")}, state={"step": step, **more}
    )


def bits(arrays: dict[str, np.ndarray]) -> dict[str, tuple[object, ...]]:
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = {"step": 3, "loss": -0.1 + 0.2, "nan": float("nan"), "nested": {"epoch": [1, 2]}, "numpy": np.float64(0.1)}
    path = save(tmp_path, "epoch_0001", model=WEIGHTS, optimizer={"v": WEIGHTS["double"].T[::-1]}, state=state)
    back = load(path)
    assert bits(back.model) == bits(WEIGHTS)
    assert np.array_equal(back.optimizer["v"], WEIGHTS["double"][::-1])
    assert back.state["nan"] != back.state["nan"]
    assert {k: v for k, v in back.state.items() if k != "nan"} == {k: v for k, v in state.items() if k != "nan"}


def test_paddle_tensors_bfloat16_included(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    tensor = paddle.to_tensor([1.0, -3.14159, 1e30]).astype("bfloat16")
    path = save(tmp_path, "a", model={"w": tensor, "zero_d": paddle.to_tensor(2.5)}, optimizer={}, state={})
    back = load(path).model
    assert back["zero_d"].shape == ()
    assert paddle.to_tensor(back["w"]).dtype == paddle.bfloat16
    assert paddle.to_tensor(back["w"]).astype("float32").tolist() == tensor.astype("float32").tolist()
    safetensors_paddle = pytest.importorskip("safetensors.paddle")
    other = safetensors_paddle.load_file(str(path / "model.safetensors"))["w"]
    assert other.dtype == paddle.bfloat16
    assert (other == tensor).all()


def test_other_readers_and_writers_of_safetensors_agree(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_tensors(tmp_path / "a", WEIGHTS, {"made": "here"})
    assert bits(load_file(tmp_path / "a")) == bits(WEIGHTS)
    save_file({k: v for k, v in WEIGHTS.items() if k != "empty"}, tmp_path / "b")
    assert bits(read_tensors(tmp_path / "b")) == {k: v for k, v in bits(WEIGHTS).items() if k != "empty"}


def test_unknown_dtype_and_foreign_state_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'w' of dtype complex64"):
        save(tmp_path, "a", model={"w": np.zeros(2, "complex64")}, optimizer={}, state={})
    with pytest.raises(TypeError, match="cannot hold a PosixPath"):
        save(tmp_path, "a", model={}, optimizer={}, state={"path": Path()})
    assert names(tmp_path) == []


def test_latest_moves_and_best_stays(tmp_path: Path) -> None:
    put(tmp_path, "epoch_0001", 1)
    mark_best(tmp_path, "epoch_0001")
    put(tmp_path, "epoch_0002", 2)
    assert find(tmp_path).name == "epoch_0002"
    assert find(tmp_path / "checkpoints", "best").name == "epoch_0001"
    assert find(tmp_path, "epoch_0001") == find(tmp_path / "checkpoints/epoch_0001")
    with pytest.raises(CheckpointError, match="did you mean 'epoch_0002'"):
        find(tmp_path, "epoch_02")
    with pytest.raises(CheckpointError, match="no checkpoint 'epoch_9'"):
        mark_best(tmp_path, "epoch_9")
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        find(tmp_path / "nowhere")


def test_pruning_keeps_the_last_the_latest_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 6):
        put(tmp_path, f"epoch_{step:04}", step)
        if step == 2:
            mark_best(tmp_path, "epoch_0002")
    assert keep_last(tmp_path, 2) == ["epoch_0001", "epoch_0003"]
    assert names(tmp_path) == ["best", "epoch_0002", "epoch_0004", "epoch_0005", "latest"]
    assert keep_last(tmp_path, 0) == ["epoch_0004"]
    assert find(tmp_path).name == "epoch_0005"
    assert keep_last(tmp_path, 10) == []


def test_order_is_that_of_saving_after_a_resume_from_an_earlier_one(tmp_path: Path) -> None:
    for step in (1, 2, 3, 2):
        put(tmp_path, f"epoch_{step:04}", step)
    assert find(tmp_path).name == "epoch_0002"
    assert keep_last(tmp_path, 2) == ["epoch_0001"]
    (tmp_path / "checkpoints/epoch_0002/state.json").unlink()
    with pytest.warns(UserWarning, match=r"epoch_0002 is incomplete: state.json is missing"):
        assert find(tmp_path).name == "epoch_0003"


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, file: str, damage: str) -> None:
    put(tmp_path, "epoch_0001", 1)
    put(tmp_path, "epoch_0002", 2)
    victim = tmp_path / "checkpoints/epoch_0002" / file
    data = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        victim.write_bytes({"flip": data, "cut": data[:-1], "empty": b""}[damage])
    warnings: list[str] = []
    assert find(tmp_path, warn=warnings.append).name == "epoch_0001"
    assert len(warnings) == 1
    assert "epoch_0002" in warnings[0]
    assert file in warnings[0]
    with pytest.raises(CheckpointError, match=file):
        load(tmp_path / "checkpoints/epoch_0002")
    with pytest.raises(CheckpointError, match=file):
        find(tmp_path, "epoch_0002")
    # Saving over the damaged one heals it.
    put(tmp_path, "epoch_0002", 22)
    assert load(find(tmp_path)).state["step"] == 22


def test_all_damaged_is_an_error_not_a_guess(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    (tmp_path / "checkpoints/a/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        find(tmp_path, warn=lambda _: None)


def test_lost_pointer_and_dangling_pointer(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    put(tmp_path, "b", 2)
    folder = tmp_path / "checkpoints"
    (folder / "latest").unlink()
    assert find(tmp_path).name == "b"
    (folder / "latest").symlink_to("gone")
    with pytest.warns(UserWarning, match="gone is incomplete"):
        assert find(tmp_path).name == "b"


def test_a_pointer_leads_nowhere_outside_the_run(tmp_path: Path) -> None:
    put(tmp_path / "run", "a", 1)
    put(tmp_path / "other", "evil", 2)
    link = tmp_path / "run/checkpoints/latest"
    link.unlink()
    link.symlink_to(tmp_path / "other/checkpoints/evil")
    assert find(tmp_path / "run", warn=lambda _: None).name == "a"


def test_pointers_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    put(tmp_path, "a", 1)
    put(tmp_path, "b", 2)
    mark_best(tmp_path, "a")
    assert (tmp_path / "checkpoints/latest").read_text() == "b\n"
    assert find(tmp_path).name == "b"
    assert find(tmp_path, "best").name == "a"


def test_a_copy_that_followed_the_links_still_works(tmp_path: Path) -> None:
    put(tmp_path / "run", "a", 1)
    subprocess.run(["cp", "-rL", tmp_path / "run", tmp_path / "copy"], check=True)
    assert load(find(tmp_path / "copy")).state["step"] == 1
    put(tmp_path / "copy", "b", 2)
    assert (tmp_path / "copy/checkpoints/latest").is_symlink()
    assert find(tmp_path / "copy").name == "b"


def test_full_disk_leaves_earlier_checkpoints_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a", 1)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints/a").iterdir()}
    for write in range(1, 9):
        calls = iter(range(1, 100))

        def fsync(descriptor: int, write: int = write, calls: object = calls) -> None:
            if next(calls) == write:  # type: ignore[call-overload]
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            if write <= 7:
                with pytest.raises(CheckpointError, match="No space left on device; earlier checkpoints are intact"):
                    put(tmp_path, "b", 2)
            else:
                put(tmp_path, "b", 2)  # a save syncs seven times: four files, the folder, its name, the pointer
        assert {path: path.read_bytes() for path in before} == before
        assert not [name for name in names(tmp_path) if name.startswith(".")]
        assert load(find(tmp_path)).state["step"] in (1, 2)


def test_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small disk here")
    try:
        put(disk, "a", 1)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(disk, "b", model={"w": np.zeros(1 << 20)}, optimizer={}, state={})
        assert names(disk) == ["a", "latest"]
        assert load(find(disk)).state["step"] == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("stage", ["rename", "replace", "symlink_to", "write_tensors", "write_json", "rmtree"])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("name", ["a", "b"])
def test_killed_before_each_step_of_a_save(tmp_path: Path, stage: str, call: int, name: str) -> None:
    """SIGKILL right before the nth such operation, when saving a new checkpoint and when replacing one."""
    put(tmp_path, "a", 1)
    code = f"""
import os, shutil, signal
import numpy as np
from pathlib import Path
from passl_simsiam.checkpoint import durable, io
owner = dict(rename=Path, replace=Path, symlink_to=Path, write_tensors=io, write_json=io, rmtree=shutil)[{stage!r}]
real, calls = getattr(owner, {stage!r}), iter(range(1, 100))
def die(*args, **kwargs):
    if next(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(owner, {stage!r}, die)
io.save(Path({str(tmp_path)!r}), {name!r}, model={{}}, optimizer={{}}, state=dict(step=2))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    assert load(find(tmp_path, warn=lambda _: None)).state["step"] in (1, 2)
    clean(tmp_path)
    assert set(names(tmp_path)) <= {"a", "b", "latest"}
    put(tmp_path, "c", 3)
    assert load(find(tmp_path)).state["step"] == 3


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """A process that saves and prunes without end, killed ten times: what it had announced as saved is there."""
    code = f"""
import sys, itertools
import numpy as np
from pathlib import Path
from passl_simsiam.checkpoint import io
run = Path({str(tmp_path)!r})
first = int(sys.argv[1])
for step in itertools.count(first):
    w = np.full(200_000, step, "float32")
    io.save(run, f"epoch_{{step % 3}}", model=dict(w=w), optimizer=dict(w=w), state=dict(step=step))
    print(step, flush=True)
    io.keep_last(run, 2)
"""
    rng, step = random.Random(0), 0
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", code, str(step + 1)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        announced = [int(line) for line in process.stdout.read().splitlines() if line.isdigit()]
        process.wait()
        found = load(find(tmp_path, warn=pytest.fail))  # nothing may even look damaged
        assert found.state["step"] >= max([step + 1, *announced])
        assert (found.model["w"] == found.state["step"]).all()
        step = found.state["step"]
    clean(tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_random_states_continue_exactly() -> None:
    paddle = pytest.importorskip("paddle")
    from passl_simsiam.checkpoint.random_state import random_state, restore_random_state

    def draw() -> list[object]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), paddle.randn([3]).tolist()]

    draw()  # leaves a cached second Gaussian in Python's and NumPy's generators
    state = json.loads(json.dumps(random_state()))
    expected = draw()
    assert draw() != expected
    restore_random_state(state)
    assert draw() == expected


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 64, b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":{"dtype":1}}'])
def test_what_is_not_safetensors_is_one_clear_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"w.safetensors is not a readable safetensors file"):
        read_tensors(tmp_path / "w.safetensors")


def test_durable_pointer_is_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    durable.point(tmp_path, "latest", "x")
    assert pointed(tmp_path, "latest") == tmp_path / "x"
    assert io.pointed(tmp_path, "best") is None
