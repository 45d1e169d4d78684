"""A run of several processes goes on after a stop, on as many processes or on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_equality import by_hand, losses, plain, train

from passl_simsiam.checkpoint import io


def test_on_another_number_of_processes_it_is_the_same_training_up_to_rounding(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", plain())
    train(tmp_path / "run", by_hand(tmp_path, 2), "Global.max_steps=9")
    resumed = train(tmp_path / "run", plain(), "Global.checkpoint=auto")
    assert len(losses(resumed)) == 22
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-6)
    said = (tmp_path / "run/log.txt").read_text()
    assert "2 process(es) before, 1 now" in said
    assert "no longer bitwise" in said


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_on_as_many_it_is_bitwise_the_same(tmp_path: Path, workers: int) -> None:
    loader = f"DataLoader.Train.loader.num_workers={workers}"
    train(tmp_path / "whole", by_hand(tmp_path, 2), loader)
    train(tmp_path / "run", by_hand(tmp_path, 2), loader, "Global.max_steps=9")
    train(tmp_path / "run", by_hand(tmp_path, 2), loader, "Global.checkpoint=auto")
    whole, resumed = (io.load(io.find(tmp_path / name)) for name in ("whole", "run"))
    assert whole.state["step"] == resumed.state["step"] == 22
    for kind in ("model", "optimizer"):
        for name, array in getattr(whole, kind).items():
            np.testing.assert_array_equal(array, getattr(resumed, kind)[name], err_msg=name)
