"""What the checks of a run's start find, on a machine and a recipe made to fail them."""

from __future__ import annotations

from pathlib import Path

import pytest

from passl_simsiam.config import Config, load_config
from passl_simsiam.distributed import World
from passl_simsiam.tasks import preflight
from passl_simsiam.tasks.preflight import check_batch, check_disk

MB = 2**20


def recipe(root: Path, *overrides: str) -> Config:
    return load_config(str(root / "configs/simsiam_r18_pt_digits.yaml"), list(overrides))


@pytest.mark.parametrize(
    ("digests", "result", "words"),
    [
        ([5, 5, 5], "ok", "on all 3 rank(s)"),
        ([5, 7, 5, 5], "fail", "rank 1 differs from the other 3"),
        ([7, 5, 5, 5, 9], "fail", "ranks 0, 4 differ from the other 3"),
        ([1, 2], "fail", "differs on every rank"),
    ],
)
def test_ranks_that_differ_are_named(digests: list[int], result: str, words: str) -> None:
    check = preflight._compare("recipe", "abc", digests)
    assert check.result == result
    assert words in check.detail


@pytest.mark.parametrize(("free", "result"), [(500, "ok"), (399, "warn"), (99, "fail")])
def test_room_for_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, result: str) -> None:
    """Two kept, the best and one in progress are planned, of 100 MB each."""
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free * MB}))
    assert check_disk(tmp_path / "not/there/yet", 100 * MB, keep=2).result == result


def test_checkpoints_that_are_there_count_and_never_stop_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 20}))
    folder = tmp_path / "checkpoints/epoch_0001"
    folder.mkdir(parents=True)
    assert check_disk(tmp_path, 100, keep=1).result == "fail"
    (folder / "model.safetensors").write_bytes(bytes(100))
    assert check_disk(tmp_path, 100, keep=1).result == "warn"
    (folder / "optimizer.safetensors").write_bytes(bytes(180))
    assert check_disk(tmp_path, 100, keep=1).result == "ok"


def test_shares_of_a_batch(root: Path) -> None:
    assert check_batch(recipe(root), World(0, 4)).result == "ok"
    assert check_batch(recipe(root), World(0, 3)).result == "fail"
    assert check_batch(recipe(root, "Global.accumulate_steps=64"), World(0, 1)).result == "warn"  # parts of one image


def test_another_recipe_has_another_fingerprint(root: Path) -> None:
    one, other = (preflight.environment_facts(recipe(root, f"Global.seed={seed}"))["recipe"] for seed in (0, 1))
    assert one != other == preflight.environment_facts(recipe(root, "Global.seed=1"))["recipe"]
