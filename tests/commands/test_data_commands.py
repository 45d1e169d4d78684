"""passl-doctor and passl-pack on a real folder."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from passl_simsiam.commands import doctor, pack
from passl_simsiam.data.datasets.shards import Shards


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six good images in two classes, and a broken one."""
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "photos" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (30, 40, 3), np.uint8))
    (tmp_path / "photos/cat/broken.jpg").write_bytes(b"not an image")
    return tmp_path / "photos"


def test_doctor_names_what_is_bad(photos: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(root / "configs/simsiam_r18_pt_folder.yaml")
    assert doctor.main(["--data", recipe, "-o", f"DataLoader.Train.dataset.root={photos}", "DataLoader.Eval=null"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 (14.29%)" in said
    assert "broken.jpg" in said
    assert "PNG" in said


def test_pack_makes_a_data_set(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main([str(photos), str(tmp_path / "shards"), "--short-side", "20"]) == 0
    assert "6 images" in capsys.readouterr().out
    shards = Shards(str(tmp_path / "shards"))
    assert len(shards) == 6
    assert shards.classes == ["cat", "dog"]
    assert min(shards.read(0).shape[:2]) == 20


def test_mistakes_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main([str(tmp_path / "nowhere"), str(tmp_path / "shards")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ImageFolder: root")
    assert not (tmp_path / "shards").exists()
