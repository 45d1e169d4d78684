"""Runs from weights that went through another project's file, and what a run leaves for Paddle's own tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from tiny import Run

from passl_simsiam import zoo
from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.convert import convert
from passl_simsiam.zoo import store


def test_a_run_leaves_its_weights_for_paddle_and_goes_on_from_a_foreign_file(
    pretrain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pretrain("first", "Global.epochs=1")
    best = io.pointed(folder / "checkpoints", "best")
    assert best is not None
    saved, loaded = io.load(best).model, paddle.load(str(best / "model.pdparams"))
    assert saved.keys() == loaded.keys()
    assert all(np.array_equal(saved[name], loaded[name].numpy()) for name in saved)

    convert(folder, tmp_path / "official.pth")
    convert(tmp_path / "official.pth", tmp_path / "anew")
    capsys.readouterr()
    again = pretrain("again", "Global.epochs=1", f"Global.checkpoint={tmp_path / 'anew'}")
    out = capsys.readouterr()
    assert "at step 0" in out.out + out.err
    assert "is not the one that the checkpoint was trained with" not in out.out + out.err
    # From trained weights, not from the recipe's random ones: the first epoch ends elsewhere than the first run's.
    name = "backbone.layer4.1.conv2.weight"
    ends = [io.load(io.find(run)).model[name] for run in (folder, again)]
    assert not np.array_equal(*ends)

    # A name of the zoo, its file put into the cache by hand; the layout is torch's.
    monkeypatch.setenv(store.CACHE, str(tmp_path / "cache"))
    place = zoo.place_of("facebook_simsiam_r50_100ep")
    place.parent.mkdir(parents=True)
    place.write_bytes((tmp_path / "official.pth").read_bytes())
    pretrain("named", "Global.epochs=1", "Global.max_steps=1", "Global.pretrained_model=facebook_simsiam_r50_100ep")
    out = capsys.readouterr()
    assert "backbone weights from facebook_simsiam_r50_100ep" in out.out + out.err
