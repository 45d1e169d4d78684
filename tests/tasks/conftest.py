"""A digits run small enough for a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TINY_PRETRAINING, Run

from passl_simsiam.commands import train


@pytest.fixture
def pretrain(tmp_path: Path, root: Path) -> Run:
    """Pretrain into tmp_path/NAME, with overrides; returns the run's folder."""

    def run(name: str, *overrides: str) -> Path:
        recipe = root / "configs/simsiam_r18_pt_digits.yaml"
        folder = tmp_path / name
        code = train.main(["-c", str(recipe), "-o", *TINY_PRETRAINING, f"Global.output_dir={folder}", *overrides])
        assert code == 0
        return folder

    return run
