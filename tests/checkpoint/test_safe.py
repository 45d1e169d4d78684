"""Weight files are data: read exactly, and refused in one line when hostile or damaged, at bounded cost."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passl_simsiam.checkpoint import safe
from passl_simsiam.checkpoint.safe import read
from passl_simsiam.checkpoint.writers import write_pdparams, write_pth
from passl_simsiam.errors import UserError

EXAMPLES = int(os.environ.get("PASSL_FUZZ_EXAMPLES", "20000"))


def test_hostile_and_damaged_files_cost_little_and_run_nothing(tmp_path: Path) -> None:
    """Each in a process of its own kind of reader: one clear line, in 5 s, in 4 times its size plus 200 MB."""
    victim = tmp_path / "victim"
    cases = list(hostile.corpus(tmp_path, victim))
    assert len(cases) > 100
    for index, (_, data, _) in enumerate(cases):
        (tmp_path / f"{index}.bin").write_bytes(data)
    code = """
import json, resource, sys, time
from pathlib import Path
from passl_simsiam.checkpoint.safe import read
from passl_simsiam.errors import UserError
def memory():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
for index in range(int(sys.argv[2])):
    path = Path(sys.argv[1]) / f"{index}.bin"
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start, before = time.process_time(), memory()
    try:
        read(path); result = None
    except UserError as error:
        result = str(error)
    except BaseException as error:
        result = f"TRACEBACK {type(error).__name__}: {error}"
    print(json.dumps([result, time.process_time() - start, memory() - before]), flush=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(len(cases))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(cases)
    for (name, data, pattern), (message, seconds, memory) in zip(cases, results, strict=True):
        assert seconds < 5, name
        assert memory < 4 * len(data) + 200e6, name
        if message is None:
            assert pattern == "", f"{name}: was read"
        else:
            assert "TRACEBACK" not in message, f"{name}: {message}"
            assert re.search(pattern, message), f"{name}: {message}"
            assert "\n" not in message
            assert ".bin" in message
            assert len(message) < 300 + len(str(tmp_path))
    assert not victim.exists()


def test_the_corpus_bites_a_trusting_reader(tmp_path: Path) -> None:
    """The files that should run code do so with plain pickle: the test above is not about duds."""
    for index, (_, data, _) in enumerate(hostile.code(tmp_path / "victim")):
        (tmp_path / f"{index}.bin").write_bytes(data)
    code = """
import contextlib, pickle, sys
from pathlib import Path
ran, victim = 0, Path(sys.argv[1], "victim")
for file in Path(sys.argv[1]).glob("*.bin"):
    with contextlib.suppress(Exception):
        pickle.loads(file.read_bytes())
    ran += victim.exists()
    victim.unlink(missing_ok=True)
print(ran)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 6


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps({"w": np.ones(2)}))
    (tmp_path / "link").symlink_to("w.pdparams")
    for path, pattern in {
        "fifo": "no regular file",
        "loop": "cannot be read",
        ".": "a folder",
        "no": "No such",
    }.items():
        with pytest.raises(UserError, match=pattern):
            read(tmp_path / path)
    with pytest.raises(UserError, match="no regular file"):
        read(Path("/dev/zero"))
    assert read(tmp_path / "link").tree["w"].tolist() == [1, 1]


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    small = [data for _, data, _ in hostile.corpus(folder, folder / "victim") if len(data) < 4096]
    valid = list(hostile.valid(folder).values())
    return valid * (len(small) // len(valid)) + small  # half of the time a valid file


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "insert", "delete", "copy", "number"]), st.floats(0, 1), st.binary(max_size=9)),
    min_size=1,
    max_size=6,
)


def mutate(data: bytes, changes: list[tuple[str, float, bytes]], other: bytes) -> bytes:
    for kind, where, new in changes:
        at = int(where * len(data))
        if kind == "flip" and new:
            data = (
                data[:at]
                + bytes(a ^ b for a, b in zip(data[at : at + len(new)], new, strict=False))
                + data[at + len(new) :]
            )
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + len(new) ** 2 :]
        elif kind == "copy":
            data = data[:at] + other[at : at + 16 * len(new)] + data[at:]
        else:
            data = data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :]
    return data


def fuzz(path: Path, seeds: list[bytes], examples: int, *, same_each_time: bool) -> dict[str, int]:
    """Mutations of valid and hostile files: only UserErrors, of one line, soon. Returns how many of each outcome."""
    counts = {"read": 0, "refused": 0}

    checks = list(HealthCheck)

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=checks,
              derandomize=same_each_time)  # fmt: skip
    @given(st.sampled_from(range(len(seeds))), st.sampled_from(range(len(seeds))), edits)
    def run(first: int, second: int, changes: list[tuple[str, float, bytes]]) -> None:
        path.write_bytes(mutate(seeds[first], changes, seeds[second]))
        start = time.process_time()
        try:
            read(path)
            counts["read"] += 1
        except UserError as error:
            message = str(error)
            counts["refused"] += 1
        else:
            message = ""
        assert "\n" not in message
        assert time.process_time() - start < 5

    run()
    return counts


def test_fuzz_a_little(tmp_path: Path, seeds: list[bytes]) -> None:
    counts = fuzz(tmp_path / "w", seeds, 500, same_each_time=True)
    assert counts["read"] > 5
    assert counts["refused"] > 300


@pytest.mark.slow
def test_fuzz_much(tmp_path: Path, seeds: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    counts = fuzz(tmp_path / "w", seeds, EXAMPLES, same_each_time=False)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    with capsys.disabled():
        print(f"\n{counts}, {time.monotonic() - start:.0f} s, {grown:.0f} MB more memory")
    assert grown < 300  # hypothesis remembers its examples, too


TREE: dict[str, Any] = {
    "state_dict": {
        "w": np.random.default_rng(0).normal(size=(3, 4, 1)).astype("float32"),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "zero_d": np.array(7),
        "empty": np.zeros((0, 5), "float16"),
        "flag": np.array([True, False]),
        "bf16": np.array([16256, 65535], "uint16"),
        "byte": np.arange(3, dtype="uint8"),
    },
    "epoch": -(2**40),
    "lr": 0.05,
    "arch": "resnet50é",
    "none": None,
    "flags": [True, False, (1, (2,))],
}


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b


@pytest.mark.parametrize("write", [write_pdparams, write_pth])
def test_written_files_come_back_exactly(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "w", TREE)
    assert_equal(read(tmp_path / "w").tree, TREE)
    first = (tmp_path / "w").read_bytes()
    write(tmp_path / "w", read(tmp_path / "w").tree)
    assert (tmp_path / "w").read_bytes() == first


@pytest.mark.parametrize("write", [write_pdparams, write_pth])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "w", TREE)
    before = (tmp_path / "w").read_bytes()
    with pytest.raises(TypeError, match="cannot hold a PosixPath"):
        write(tmp_path / "w", {"a": np.ones(3), "b": tmp_path})
    with pytest.raises(UserError, match=r"no/w could not be written: No such file"):
        write(tmp_path / "no/w", TREE)
    assert (tmp_path / "w").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_pickles_of_arrays(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6, dtype="int8").reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "scalar": np.float32(0.1),
        "strided": np.arange(10)[::3],
    }
    (tmp_path / "w").write_bytes(pickle.dumps(arrays, protocol))
    tree = read(tmp_path / "w").tree
    assert {k: v.tolist() for k, v in tree.items()} == {k: v.tolist() for k, v in arrays.items()}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddles_files(tmp_path: Path, protocol: int) -> None:
    paddle = pytest.importorskip("paddle")
    net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3), paddle.nn.BatchNorm2D(8))
    optimizer = paddle.optimizer.Momentum(parameters=net.parameters())
    net(paddle.randn([2, 3, 4, 4])).sum().backward()
    optimizer.step()
    for state in (net.state_dict(), optimizer.state_dict()):
        paddle.save(state, str(tmp_path / "w"), protocol=protocol)
        tree = read(tmp_path / "w").tree
        for name, tensor in state.items():
            assert_equal(tree[name], tensor.numpy())
    nested = {"a": paddle.to_tensor([1.5]).astype("bfloat16"), "b": {"c": [paddle.to_tensor(2)]}}
    paddle.save(nested, str(tmp_path / "w"), protocol=protocol)
    tree = read(tmp_path / "w").tree
    assert tree["a"][1].tolist() == [0x3FC0]
    assert tree["b"]["c"][0][1].tolist() == 2


def test_paddle_reads_ours(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    write_pdparams(tmp_path / "w.pdparams", TREE["state_dict"])
    back = paddle.load(str(tmp_path / "w.pdparams"))
    assert back.pop("bf16").dtype == paddle.bfloat16
    for name, tensor in back.items():
        assert_equal(tensor.numpy(), np.asarray(TREE["state_dict"][name], order="C"))


@pytest.mark.parametrize("legacy", [False, True])
def test_torchs_files_both_ways(tmp_path: Path, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    tree = {
        "epoch": 3,
        "state_dict": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "slice": torch.arange(10)[3:9:2],
        "bf16": torch.randn(3).bfloat16(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "zero_d": torch.tensor(3),
    }
    torch.save(tree, tmp_path / "w", _use_new_zipfile_serialization=not legacy)
    contents = read(tmp_path / "w")
    assert contents.kind == ("torch-legacy" if legacy else "torch")

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.detach().contiguous()
            return value.view(torch.uint16).numpy() if value.dtype == torch.bfloat16 else value.numpy()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    assert_equal(contents.tree, plain(tree))
    write_pth(tmp_path / "ours.pth", contents.tree)
    for mapped in (False, True):
        assert_equal(plain(torch.load(tmp_path / "ours.pth", weights_only=True, mmap=mapped)), plain(tree))


def test_trainers_settings_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    import argparse
    import collections
    import datetime

    more = {
        "args": argparse.Namespace(lr=0.1, nested={"a": [1]}),
        "counts": collections.defaultdict(int, {"a": 1}),
        "when": datetime.datetime(2020, 1, 1),
        "path": Path("/tmp"),
        "random": np.random.default_rng(0).bit_generator.state["bit_generator"],
        "ordered": collections.OrderedDict(a=np.ones(2)),
    }
    (tmp_path / "w").write_bytes(pickle.dumps({"w": np.ones(2), **more}))
    tree = read(tmp_path / "w").tree
    assert tree["w"].tolist() == tree["ordered"]["a"].tolist() == [1, 1]
    assert str(tree["args"]) == "Opaque(path='argparse.Namespace')"
    assert safe.read(tmp_path / "w").kind == "pickle"
