"""Conversion without torch: Paddle's formats, what cannot be converted, reports, and what is left on disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.convert import convert
from passl_simsiam.checkpoint.inspect import inspect
from passl_simsiam.checkpoint.layouts import DEPTHS, KINDS, LAYOUTS, backbone_names, layout_of, mlp_names
from passl_simsiam.checkpoint.match import match
from passl_simsiam.checkpoint.safe import read
from passl_simsiam.checkpoint.tensors import read_tensors, write_tensors
from passl_simsiam.checkpoint.weights import apply_weights, load_weights, named_tensors
from passl_simsiam.checkpoint.writers import write_pdparams, write_pth
from passl_simsiam.errors import UserError

paddle = pytest.importorskip("paddle")
Arrays = dict[str, np.ndarray]


def ours(depth: int = 18, *, width: int = 4, neck: bool = True, stem: str = "cifar", seed: int = 0) -> Arrays:
    """Weights of our own model, with batch norms and frozen biases of random content."""
    from passl_simsiam.registry import BACKBONES, HEADS, NECKS

    paddle.seed(seed)
    model = paddle.nn.Layer()
    model.backbone = BACKBONES.get(f"ResNet{depth}")(width=width, stem=stem)
    if neck:
        model.neck = NECKS.get("SimSiamProjector")(model.backbone.out_channels, 10, hidden_channels=12)
        model.head = HEADS.get("SimSiamPredictor")(10, 6)
    else:
        model.head = HEADS.get("LinearClassifier")(model.backbone.out_channels, 7)
    rng = np.random.default_rng(seed)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name, array in weights.items():
        if array.ndim == 1:
            weights[name] = rng.normal(1 if name.endswith("_variance") else 0.1, 0.1, array.shape).astype("float32")
    return weights


def same(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def save(path: Path, weights: Arrays) -> Path:
    write_tensors(path, weights)
    return path


@pytest.mark.parametrize("depth", [18, 50, 101])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised_and_comes_back(tmp_path: Path, depth: int, name: str) -> None:
    """Ours -> layout -> ours, for every layout, way of naming blocks and depth: names are told apart, bits return."""
    layout = LAYOUTS[name]
    if name == "patrickhua":
        pytest.skip("its projector has weights in its last batch norm: see the torch tests")
    weights = ours(depth, width=1, neck=layout.neck is not None)
    if layout.classifier is None and layout.neck is None:
        weights = {k: v for k, v in weights.items() if k.startswith("backbone.")}
    if layout.neck and layout.neck.bias == "none":
        weights["neck.6.bias"] = np.zeros(10, "float32")  # else it is folded: see below
    if layout.neck and layout.neck.affine:
        del weights["neck.6.bias"]
        weights["neck.6.bias"] = np.zeros(10, "float32")
        return check_affine(tmp_path, weights, name)
    source = save(tmp_path / "ours.safetensors", weights)
    suffix = ".pdparams" if layout.framework == "paddle" else ".pth"
    for blocks in layout.blocks:
        report = convert(source, tmp_path / f"there{suffix}", target_format=f"{name}/{blocks}")
        assert report.architecture["backbone"] == {
            "name": f"ResNet{depth}",
            "width": 1,
            "in_channels": 3,
            "stem": "cifar",
        }
        back = convert(tmp_path / f"there{suffix}", tmp_path / "back.safetensors")
        assert back.architecture == report.architecture
        assert same(read_tensors(tmp_path / "back.safetensors"), weights)
    return None


def check_affine(tmp_path: Path, weights: Arrays, name: str) -> None:
    """A last batch norm without weights becomes one with ones and zeros, and that is seen again on the way back."""
    source = save(tmp_path / "ours.safetensors", weights)
    convert(source, tmp_path / "there.pth", target_format=name)
    report = convert(tmp_path / "there.pth", tmp_path / "o.pdparams", target_format="passl")
    assert any("all ones" in fate.why for fate in report.fates)


def test_names_of_two_layouts_never_meet_by_accident() -> None:
    """No layout gives two modules one name."""
    for name in LAYOUTS:
        for blocks in LAYOUTS[name].blocks:
            layout = layout_of(f"{name}/{blocks}")
            for depth in DEPTHS:
                modules = [layout.backbone + theirs for _, _, theirs in backbone_names(depth, layout.blocks[0])]
                for mlp in (layout.neck, layout.head):
                    modules += [n for i in range(3) for n in mlp_names(mlp, i)[:2]] if mlp else []
                assert len(set(modules)) == len(modules), (name, blocks, depth)


def test_passl_files_full_and_encoder(tmp_path: Path) -> None:
    weights = ours(50)
    source = save(tmp_path / "ours.safetensors", weights)
    convert(source, tmp_path / "simsiam.pdparams")
    names = paddle.load(str(tmp_path / "simsiam.pdparams")).keys()
    assert {
        "encoder.conv1.weight",
        "encoder.layer1.0.downsample.1._mean",
        "encoder.fc.6.bias",
        "predictor.3.bias",
    } <= names
    encoder = {k.removeprefix("encoder."): v for k, v in raw(tmp_path / "simsiam.pdparams").items()}
    encoder = {k: v for k, v in encoder.items() if not k.startswith(("fc", "predictor"))}
    write_pdparams(tmp_path / "simsiam_encoder.pdparams", encoder)
    convert(tmp_path / "simsiam_encoder.pdparams", tmp_path / "e.safetensors")
    assert same(
        read_tensors(tmp_path / "e.safetensors"), {k: v for k, v in weights.items() if k.startswith("backbone.")}
    )


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_the_real_paddle_vision(tmp_path: Path, depth: int) -> None:
    from paddle.vision import models

    net = getattr(models, f"resnet{depth}")(num_classes=9)
    paddle.save(net.state_dict(), str(tmp_path / "v.pdparams"))
    report = convert(tmp_path / "v.pdparams", tmp_path / "ours.safetensors")
    assert report.source_format == "paddle.vision/torchvision"
    assert report.architecture["head"] == {"name": "LinearClassifier", "num_classes": 9}
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pdparams")
    assert same(raw(tmp_path / "back.pdparams"), {k: v.numpy() for k, v in net.state_dict().items()})


def test_features_are_compared_on_a_network(tmp_path: Path) -> None:
    from passl_simsiam.checkpoint.proof import Side, fixed_images, outputs, prove

    weights = ours(50, stem="imagenet")
    source = save(tmp_path / "o.safetensors", weights)
    report = convert(source, tmp_path / "official.pth", prove=prove)
    assert report.differences.keys() == {"backbone", "neck", "head"}
    assert max(report.differences.values()) < 1e-5
    # And a proof that would fail does: a network is not insensitive to its weights.
    wrong = weights | {
        "backbone.layer3.2.conv2.weight": weights["backbone.layer3.2.conv2.weight"].transpose(1, 0, 2, 3)
    }
    with pytest.raises(UserError, match="converted backbone differs"):
        prove(Side(lambda: weights, "paddle"), Side(lambda: wrong, "paddle"), report.architecture)
    assert outputs(weights, report.architecture, fixed_images(report.architecture), "paddle")["head"].shape == (4, 10)


@pytest.mark.parametrize("target", ["t.pth", "t.pdparams"])
def test_a_target_that_holds_the_backbone_alone_is_proven_on_it(tmp_path: Path, target: str) -> None:
    from passl_simsiam.checkpoint.proof import prove

    source = save(tmp_path / "o.safetensors", ours())
    format_ = "torchvision" if target == "t.pth" else "paddleclas"
    report = convert(source, tmp_path / target, target_format=format_, prove=prove)
    assert report.differences.keys() == {"backbone"}
    assert report.differences["backbone"] < 1e-5


def test_the_proof_sees_a_missing_transposition_of_a_square_matrix(tmp_path: Path) -> None:
    from passl_simsiam.checkpoint.proof import Side, prove

    weights = ours()
    nodes = convert(save(tmp_path / "o.safetensors", weights), tmp_path / "x.pth").architecture
    assert weights["neck.3.weight"].shape == (12, 12)
    there = {name: array.T if array.ndim == 2 else array for name, array in weights.items()}
    assert prove(Side(lambda: weights, "paddle"), Side(lambda: there, "torch"), nodes)
    there["neck.3.weight"] = weights["neck.3.weight"]
    with pytest.raises(UserError, match="converted neck differs"):
        prove(Side(lambda: weights, "paddle"), Side(lambda: there, "torch"), nodes)


def test_a_failed_proof_keeps_what_was_there(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise UserError("differs")

    source = save(tmp_path / "o.safetensors", ours())
    (tmp_path / "t.pth").write_bytes(b"before")
    with pytest.raises(UserError, match="differs"):
        convert(source, tmp_path / "t.pth", prove=fail)
    assert (tmp_path / "t.pth").read_bytes() == b"before"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="a folder with something in it"):
        convert(source, tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_failed_proof_leaves_no_file(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise UserError("differs")

    source = save(tmp_path / "o.safetensors", ours())
    for target in ("t.pth", "t.pdparams", "t.safetensors", "run"):
        with pytest.raises(UserError, match="differs"):
            convert(source, tmp_path / target, prove=fail)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != "latest") == ["o.safetensors"]


def test_a_bias_that_the_target_lacks_goes_into_the_mean(tmp_path: Path) -> None:
    weights = ours()
    report = convert(save(tmp_path / "o.safetensors", weights), tmp_path / "l.pth", target_format="lightly")
    assert report.counts["folded"] == 1
    found = raw(tmp_path / "l.pth")
    expected = weights["neck.7._mean"] - weights["neck.6.bias"]
    assert np.allclose(found["projection_head.layers.7.running_mean"], expected, atol=1e-7)
    assert "projection_head.layers.6.bias" not in found


def test_checkpoint_folders_both_ways(tmp_path: Path) -> None:
    weights = ours()
    io.save(tmp_path / "run", "epoch_0001", model=weights, optimizer={}, state={"step": 1})
    convert(tmp_path / "run", tmp_path / "o.pth")
    convert(tmp_path / "o.pth", tmp_path / "new")
    saved = io.load(io.find(tmp_path / "new"))
    assert same(saved.model, weights)
    assert {"step", "epoch", "images", "metrics", "best", "random", "config"} <= saved.state.keys()
    assert inspect(tmp_path / "new").layout == "ours/torchvision"


def test_a_folder_without_optimizer_starts_anew_and_resumes(tmp_path: Path) -> None:
    """Its momentum is zero for exactly what our model trains."""
    from passl_simsiam.checkpoint.network import build

    weights = ours()
    write_pth(tmp_path / "o.pth", {"epoch": 7, "state_dict": official(weights)})
    report = convert(tmp_path / "o.pth", tmp_path / "run")
    saved = io.load(io.find(tmp_path / "run"))
    assert (saved.state["epoch"], saved.state["step"]) == (0, 0)
    model = build(report.architecture, weights)
    assert saved.optimizer.keys() == {n for n, p in model.named_parameters() if not p.stop_gradient}
    assert not any(array.any() for array in saved.optimizer.values())
    assert report.target == tmp_path / "run/checkpoints/epoch_0000/model.safetensors"
    assert report.target.is_file()


def test_the_result_loads_into_our_model_strictly(tmp_path: Path) -> None:
    from passl_simsiam.registry import BACKBONES

    write_pth(tmp_path / "o.pth", {"state_dict": official(ours())})
    convert(tmp_path / "o.pth", tmp_path / "o.safetensors")
    backbone = BACKBONES.get("ResNet18")(width=4, stem="cifar")
    applied = apply_weights(backbone, load_weights(tmp_path / "o"), prefix="backbone.")
    assert applied.loaded == len(backbone.state_dict())


def test_a_foreign_file_is_loaded_as_it_is(tmp_path: Path) -> None:
    weights = ours()
    write_pth(tmp_path / "o.pth.tar", {"epoch": 1, "state_dict": official(weights)})
    assert same(load_weights(tmp_path / "o"), weights)


def raw(path: Path) -> Arrays:
    """A file's tensors by the names in the file."""
    return named_tensors(read(path).tree, path)


def official(weights: Arrays) -> Arrays:
    """Our weights under official names, made here and not by the converter."""
    renamed = {}
    for name, array in weights.items():
        name = name.replace("backbone.", "encoder.").replace("neck.", "encoder.fc.").replace("head.", "predictor.")
        name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        renamed[f"module.{name}"] = np.ascontiguousarray(array.T) if array.ndim == 2 else array
    return renamed


def broken(change: Callable[[Arrays], Any]) -> Arrays:
    weights = official(ours())
    change(weights)
    return weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (broken(lambda w: w.update({"module.extra.weight": np.ones(3)})), r"1 of 1\d\d tensors: module.extra.weight"),
        (broken(lambda w: w.pop("module.encoder.layer3.1.bn2.running_mean")), "there is no ResNet among"),
        (broken(lambda w: w.update({"module.encoder.layer5.0.conv1.weight": np.ones(3)})), "layer5.0.conv1.weight"),
        (broken(lambda w: w.pop("module.encoder.fc.3.weight")), "fc.4"),
        (broken(lambda w: w.update({"module.predictor.0.weight": np.ones((6, 11), "float32")})), "10 channels come"),
        (broken(lambda w: w.update({"module.predictor.1.bias": np.ones(5)})), r"head.1.bias is \[5\], not \[6\]"),
        (broken(lambda w: w.update({"module.encoder.layer2.0.conv1.weight": np.ones((8, 2, 3, 3))})), "grouped"),
        (broken(lambda w: w.update({"module.encoder.conv1.weight": np.ones((4, 3, 5, 5))})), "5 x 5"),
        ({"a": np.ones(3)}, "no ResNet among the 1 tensors a"),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_no_rule_explains_is_an_error_and_nothing_is_written(
    tmp_path: Path, weights: Arrays, message: str
) -> None:
    write_pth(tmp_path / "s.pth", {"state_dict": weights})
    for target in ("t.safetensors", "t.pdparams", "t.pth", "run"):
        with pytest.raises(UserError, match=message) as caught:
            convert(tmp_path / "s.pth", tmp_path / target)
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["s.pth"]
    assert not inspect(tmp_path / "s.pth").layout


def test_a_deeper_network_is_not_taken_for_a_shallow_one(tmp_path: Path) -> None:
    assert match(ours(34)).depth == 34
    assert match(ours(18)).depth == 18
    assert match(ours(101, width=1)).depth == 101


def test_paddleclas_resnet18_is_refused_with_the_reason(tmp_path: Path) -> None:
    convert(save(tmp_path / "o.safetensors", ours(neck=False)), tmp_path / "c.pdparams", target_format="paddleclas")
    theirs = raw(tmp_path / "c.pdparams") | {"blocks.0.short.conv.weight": np.ones((4, 4, 1, 1), "float32")}
    write_pdparams(tmp_path / "d.pdparams", theirs)
    with pytest.raises(UserError, match=r"blocks.0.short.conv.weight \(PaddleClas projects in the first block"):
        convert(tmp_path / "d.pdparams", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("target", "format_", "message"),
    [
        ("x.pth", "offical", "unknown format 'offical'; did you mean 'official'"),
        ("x.pth", "lightly/shortcuts", "has no blocks 'shortcuts'.*choices: children"),
        ("x.pth", "ours", "format 'ours' does not go into"),
        ("x.pdparams", "lightly", "'lightly' does not go into"),
        ("x.onnx", None, "told from the suffix"),
        ("run", "official", "did you mean"),
        ("o.safetensors", None, "the file to convert itself"),
        ("no/x.pth", None, "could not be written: No such file"),
        ("x.pth", "patrickhua", ""),
        ("x.pth", "torchvision", ""),
    ],
)
def test_targets(tmp_path: Path, target: str, format_: str | None, message: str) -> None:
    source = save(tmp_path / "o.safetensors", ours())
    if message:
        with pytest.raises(
            UserError, match=message if "did you" not in message or target != "run" else "does not go into"
        ):
            convert(source, tmp_path / target, target_format=format_)
        assert [p.name for p in tmp_path.iterdir()] == ["o.safetensors"]
    else:
        report = convert(source, tmp_path / target, target_format=format_)
        dropped = [fate for fate in report.fates if fate.fate == "dropped"]
        assert bool(dropped) == (format_ == "torchvision")  # which has no place for a projector


def test_report_says_every_tensors_fate(tmp_path: Path) -> None:
    weights = official(ours())
    weights |= {k.replace("running_mean", "num_batches_tracked"): np.array(8) for k in weights if "running_mean" in k}
    write_pth(tmp_path / "s.pth", {"epoch": 4, "state_dict": weights, "optimizer": {}})
    report = convert(tmp_path / "s.pth", tmp_path / "t.safetensors")
    assert sorted(fate.source for fate in report.fates) == sorted(weights)
    saved = json.loads((tmp_path / "t.safetensors.report.json").read_text())
    assert saved["counts"] == report.counts == {"copied": 116, "transposed": 5, "dropped": 24}
    assert saved["prefix"] == "module."
    assert (
        saved["sha256"]["target"] == __import__("hashlib").sha256((tmp_path / "t.safetensors").read_bytes()).hexdigest()
    )
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


def test_every_rule_names_tensors_of_its_kind() -> None:
    assert {kind for depth in DEPTHS for kind, _, _ in backbone_names(depth, "torchvision")} <= KINDS.keys()


@pytest.mark.slow
def test_time_and_memory_of_a_resnet_50_with_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = official(ours(50, width=64, stem="imagenet"))
    trained = [name for name in weights if not name.endswith(("running_mean", "running_var"))]
    state = {
        i: {"momentum_buffer": weights[name]} for i, name in enumerate(trained) if name != "module.encoder.fc.6.bias"
    }
    groups = [{"params": list(range(len(trained)))}]
    write_pth(tmp_path / "c.pth.tar", {"state_dict": weights, "optimizer": {"state": state, "param_groups": groups}})
    size = (tmp_path / "c.pth.tar").stat().st_size
    code = """
import sys, time
from pathlib import Path
from passl_simsiam.checkpoint.convert import convert
start = time.perf_counter()
convert(sys.argv[1], sys.argv[2])
# Not ru_maxrss: a child inherits its parent's.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(time.perf_counter() - start, peak)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "c.pth.tar"), str(tmp_path / "o.safetensors")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    seconds, memory = map(float, done.stdout.split())
    with capsys.disabled():
        print(f"\n{size / 1e6:.0f} MB: {seconds:.1f} s, peak {memory / 1e6:.0f} MB, {memory / size:.2f} times the file")
    assert memory < 2.5 * size
