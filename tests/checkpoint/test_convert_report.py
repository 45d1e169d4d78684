"""What conversion and inspection say, and what a conversion costs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from networks import official, ours, raw, same, save

from passl_simsiam.checkpoint.convert import convert
from passl_simsiam.checkpoint.inspect import inspect
from passl_simsiam.checkpoint.tensors import write_tensors
from passl_simsiam.checkpoint.writers import write_pdparams, write_pth
from passl_simsiam.errors import UserError


def test_report_says_every_tensors_fate(tmp_path: Path) -> None:
    weights = official(ours())
    weights |= {k.replace("running_mean", "num_batches_tracked"): np.array(8) for k in weights if "running_mean" in k}
    write_pth(tmp_path / "s.pth", {"epoch": 4, "state_dict": weights, "optimizer": {}})
    report = convert(tmp_path / "s.pth", tmp_path / "t.safetensors")
    assert sorted(fate.source for fate in report.fates) == sorted(weights)
    saved = json.loads((tmp_path / "t.safetensors.report.json").read_text())
    assert saved["counts"] == report.counts == {"copied": 116, "transposed": 5, "dropped": 24}
    assert saved["prefix"] == "module."
    assert saved["sha256"]["target"] == sha256((tmp_path / "t.safetensors").read_bytes()).hexdigest()
    text = str(report)
    assert "official/torchvision, prefix 'module.'" in text
    assert re.search(r"module.encoder.layer#.#.bn# +-> - +16 dropped +num_batches_tracked \(Paddle counts no", text)
    assert re.search(
        r"module.encoder.bn# +-> backbone.bn# +4 copied +weight, bias, running_mean as _mean, running_var as _var", text
    )
    assert sum(int(n) for n in re.findall(r"  (\d+) (?:copied|transposed|dropped)", text)) == len(weights)
    assert "ResNet18(width=4, in_channels=3, stem=cifar)" in text
    back = convert(tmp_path / "t.safetensors", tmp_path / "b.pth")
    assert back.counts == {"copied": 140, "transposed": 5}
    assert same(raw(tmp_path / "b.pth"), weights)


def test_report_as_markdown(tmp_path: Path) -> None:
    source = save(tmp_path / "o.safetensors", ours())
    convert(source, tmp_path / "x.pth", report=tmp_path / "proof.md")
    text = (tmp_path / "proof.md").read_text()
    assert "| neck.0.weight | module.encoder.fc.0.weight | transposed |  |" in text
    assert not (tmp_path / "x.pth.report.json").exists()
    with pytest.raises(UserError, match=r"a report is written as .json or .md"):
        convert(source, tmp_path / "y.pth", report=tmp_path / "proof.txt")
    assert not (tmp_path / "y.pth").exists()


def test_counters_in_a_foreign_files_metadata_are_not_trusted(tmp_path: Path) -> None:
    for text in ("[", "[1]", '{"backbone.bn1": "x"}', '{"backbone.bn1": -1}', "[" * 10_000):
        write_tensors(tmp_path / "o.safetensors", ours(), {"num_batches_tracked": text})
        convert(tmp_path / "o.safetensors", tmp_path / "x.pth")
        assert raw(tmp_path / "x.pth")["module.encoder.bn1.num_batches_tracked"] == 0


def test_inspect(tmp_path: Path) -> None:
    write_pth(
        tmp_path / "s.pth.tar", {"epoch": 4, "arch": "resnet18", "state_dict": official(ours()), "optimizer": {"a": 1}}
    )
    text = str(inspect(tmp_path / "s"))
    for part in ("s.pth.tar: torch,", "121 tensors (121 float32)", "layout official/torchvision, prefix 'module.'",
                 "SimSiamProjector(hidden_channels=12, out_channels=10, layers=3)", "epoch = 4", "arch = resnet18",
                 "optimizer = dict of 1"):  # fmt: skip
        assert part in text, text
    write_pdparams(tmp_path / "o.pdparams", {"linear.weight": np.ones((2, 2), "uint16")})
    text = str(inspect(tmp_path / "o"))
    assert "1 bfloat16" in text
    assert "no ResNet among" in text


@pytest.mark.slow
def test_memory_of_a_resnet_50_with_momentum(root: Path) -> None:
    """About 300 MB."""
    if importlib.util.find_spec("torch"):
        pytest.skip("torch is installed: its side runs too, and both frameworks are in memory")
    command = [sys.executable, str(root / "tools/bench/convert.py"), "--rounds", "1", "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 290 < result["file_mb"] < 320
    for conversion in result["conversions"]:
        assert conversion["times_the_file"] < 2.5, conversion
