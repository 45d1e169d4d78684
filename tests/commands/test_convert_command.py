"""passl-convert as a user calls it: output, exit codes, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passl_simsiam.checkpoint.layouts import BACKBONES, LAYOUTS
from passl_simsiam.checkpoint.tensors import read_tensors, write_tensors
from passl_simsiam.commands.convert import main

paddle = pytest.importorskip("paddle")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of ours of a small network."""
    from passl_simsiam.models.backbones.resnet import ResNet18
    from passl_simsiam.models.heads import SimSiamPredictor
    from passl_simsiam.models.necks import SimSiamProjector

    model = paddle.nn.Layer()
    model.backbone = ResNet18(width=4, stem="cifar")
    model.neck = SimSiamProjector(model.backbone.out_channels, 10, hidden_channels=12, layers=2)
    model.head = SimSiamPredictor(10, 6)
    write_tensors(tmp_path / "ours.safetensors", {k: v.numpy() for k, v in model.state_dict().items()})
    return tmp_path / "ours.safetensors"


def test_there_and_back_with_proof(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(weights), str(tmp_path / "theirs.pth"), "--report", str(tmp_path / "proof.md")]) == 0
    out = capsys.readouterr().out
    for part in ("ResNet18(width=4", "0 missing, 0 unused", "sha256 of the target", "largest relative difference"):
        assert part in out
    assert "our model, PaddlePaddle" in out
    assert (tmp_path / "proof.md").is_file()
    assert main([str(tmp_path / "theirs.pth"), str(tmp_path / "back.safetensors"), "--from", "official"]) == 0
    before, after = read_tensors(weights), read_tensors(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_a_tensor_without_a_rule_ends_in_one_line_and_code_2(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tensors(tmp_path / "odd.safetensors", read_tensors(weights) | {"extra.weight": np.ones(3, "float32")})
    assert main([str(tmp_path / "odd.safetensors"), str(tmp_path / "x.pth")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no rule explains 1 of")
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*x.pth*"))


def test_inspect_and_rules(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--inspect", str(weights)]) == 0
    assert "layout ours/torchvision" in capsys.readouterr().out
    assert main(["--rules"]) == 0
    rules = capsys.readouterr().out
    for name, layout in LAYOUTS.items():
        assert f"| {name} | {layout.framework} |" in rules
    for modules in BACKBONES.values():
        assert all(f"`{module}`" in rules for module in modules)


@pytest.mark.parametrize("argv", [[], ["a"], ["a", "b", "--rules"], ["a", "b", "--inspect", "c"]])
def test_what_to_do_must_be_clear(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "give IN and OUT, or --inspect FILE, or --rules" in capsys.readouterr().err
