"""Conversion without torch: Paddle's formats, what cannot be converted, reports, and what is left on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Arrays, official, ours, raw, same, save

from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.convert import convert
from passl_simsiam.checkpoint.inspect import inspect
from passl_simsiam.checkpoint.layouts import DEPTHS, KINDS, LAYOUTS, backbone_names, layout_of, mlp_names
from passl_simsiam.checkpoint.match import match
from passl_simsiam.checkpoint.tensors import read_tensors
from passl_simsiam.checkpoint.weights import apply_weights, load_weights
from passl_simsiam.checkpoint.writers import write_pdparams, write_pth
from passl_simsiam.errors import UserError

paddle = pytest.importorskip("paddle")


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


def test_every_rule_names_tensors_of_its_kind() -> None:
    assert {kind for depth in DEPTHS for kind, _, _ in backbone_names(depth, "torchvision")} <= KINDS.keys()
