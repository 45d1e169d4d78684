"""Exported models: the same numbers as the network, or nothing is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.durable import digest
from passl_simsiam.commands import export as command
from passl_simsiam.commands import train
from passl_simsiam.errors import UserError
from passl_simsiam.export.folder import export
from passl_simsiam.export.formats import FORMATS, Onnx
from passl_simsiam.export.network import Network
from passl_simsiam.models.backbones.resnet import ResNet18
from passl_simsiam.tasks.export import OUTPUTS

TINY = ["Global.epochs=1", "Model.backbone.width=4", "Evaluation.few_label=null", "Evaluation.knn=null"]
TINY += ["Evaluation.pictures=false"]
SPARSE = ["Global.save_every_epochs=20", "Evaluation.every_epochs=20"]
FORMAT = pytest.mark.parametrize("name", ["paddle", "onnx"])


def skip_without(name: str) -> None:
    for package in FORMATS[name].needs:
        pytest.importorskip(package)


def network(layer: nn.Layer | None = None, **changes: Any) -> Network:
    """A tiny ResNet whose batch norms are not those of a fresh one."""
    paddle.seed(0)
    layer = ResNet18(width=4, stem="cifar", zero_init_residual=False) if layer is None else layer
    for _, buffer in layer.named_buffers():
        buffer.set_value(paddle.uniform(buffer.shape, min=0.5, max=2.0))
    layer.eval()
    plain = {"output": "features", "size": 16, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    return Network(layer, **{**plain, "view": {"name": "Resize", "size": 16}, **changes})


def pixels(count: int, size: int = 16, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@FORMAT
@pytest.mark.parametrize("raw", [False, True])
def test_the_same_features_for_every_batch_size(name: str, raw: bool, tmp_path: Path) -> None:
    skip_without(name)
    net = network()
    summary = export(net, tmp_path / "out", formats=[name], raw=raw)
    run = FORMATS[name].open(tmp_path / "out")
    for batch in (1, 3, 64, 7):  # 7: a size that the export itself did not try
        images = pixels(batch)
        normalised = (images / 255 - np.array(net.mean)) / np.array(net.std)
        given = images if raw else normalised.transpose(0, 3, 1, 2).astype("float32")
        expected = net.run(images)
        assert expected.shape == (batch, 32)
        np.testing.assert_allclose(run(given), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert summary["input"]["dtype"] == ("uint8" if raw else "float32")
    assert summary["input"]["shape"] == (["batch", 16, 16, 3] if raw else ["batch", 3, 16, 16])
    assert summary["normalisation"]["inside"] is raw
    assert summary["output"]["shape"] == ["batch", 32]


def test_export_json_says_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "new/out"  # its parent is made too
    real = {"some photos": pixels(5)}
    summary = export(network(), out, real=real)
    assert json.loads((out / "export.json").read_text()) == summary
    assert {p.name for p in out.iterdir()} == {"model.json", "model.pdiparams", "use_paddle.py", "export.json"}
    for name, file in summary["files"].items():
        assert file == {"size": (out / name).stat().st_size, "sha256": digest(out / name)}
    assert set(summary["checked"]["paddle"]) == {"random pixels", "some photos"}
    for proof in summary["checked"]["paddle"].values():
        assert proof["images"] == 68
        assert 0 <= proof["relative"] < 1e-5
        assert proof["other_first"] == 0
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    net, images = network(), pixels(3)
    before = net.run(images)
    export(net, tmp_path / "out")
    np.testing.assert_array_equal(net.run(images), before)


@pytest.mark.parametrize("raw", [False, True])
def test_onnx_names_its_ends(raw: bool, tmp_path: Path) -> None:
    skip_without("onnx")
    import onnx

    summary = export(network(), tmp_path / "out", formats=["onnx"], raw=raw)
    model = onnx.load(tmp_path / "out/model.onnx")
    assert [opset.version for opset in model.opset_import] == [summary["opset"]] == [17]
    (given,), (result,) = model.graph.input, model.graph.output
    assert (given.name, result.name) == ("images", "features")
    sides = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert sides == summary["input"]["shape"]
    assert summary["output"]["names"] == {"onnx": "features"}
    assert sorted(summary["files"]) == ["model.onnx", "use_onnx.py"]  # the program it came from is not left there


class Falsified(Onnx):
    """Writes what another network would be."""

    def write(self, network: Network, raw: bool, folder: Path) -> None:
        weight = network.layer.conv1.weight
        kept = weight.clone()
        weight.set_value(kept * 1.001)
        FORMATS["paddle"].write(network, raw, folder)
        weight.set_value(kept)

    def open(self, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
        return FORMATS["paddle"].open(folder)

    needs = ()


def test_a_model_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "onnx", Falsified())
    with pytest.raises(UserError, match=r"the onnx model, on random pixels, differs from the network by .* not kept"):
        export(network(), tmp_path / "out", formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


class Unsteady(nn.Layer):
    """What no static program can hold: numbers that numpy computes."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.to_tensor(np.sort(x.numpy().reshape(x.shape[0], -1))[:, :4])


class Broken(nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x.mean(axis=[2, 3]) / 0.0


@pytest.mark.parametrize(
    ("layer", "words"),
    [(Unsteady(), "Paddle cannot make a static program of the network"), (Broken(), "outputs are not finite")],
)
def test_a_network_that_cannot_be_exported(layer: nn.Layer, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        export(network(layer), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        export(network(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Onnx, "needs", ("no_such_package",))
    with pytest.raises(UserError, match=r"onnx needs no_such_package: pip install 'passl_simsiam\[onnx\]'"):
        export(network(), tmp_path / "out", formats=["paddle", "onnx"])


def picture(path: Path, height: int, width: int) -> np.ndarray:
    """A smooth picture, saved losslessly: two resamplings of noise would differ for reasons of their own."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    image = np.stack([x, y, (1 + np.sin(9 * x * y)) / 2], axis=2)
    image = np.rint(255 * image).astype(np.uint8)
    cv2.imwrite(str(path), image[:, :, ::-1])
    return image


def use(out: Path, name: str, image: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(out / f"use_{name}.py"), str(image)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@FORMAT
@pytest.mark.parametrize("raw", [False, True])
def test_the_snippet_runs_the_model(name: str, raw: bool, tmp_path: Path) -> None:
    skip_without(name)
    from passl_simsiam.data.transforms.evaluation import ResizeCenterCrop

    view = ResizeCenterCrop(size=32, resize=40)
    node = {"name": "ResizeCenterCrop", "size": 32, "resize": 40}
    net = network(size=32, view=node)
    export(net, tmp_path / "out", formats=[name], raw=raw)
    image = picture(tmp_path / "picture.png", 75, 101)
    expected = net.run(view(image, [])[0][None])[0]
    found = json.loads(use(tmp_path / "out", name, tmp_path / "picture.png")[-1])
    # Pillow resizes there, OpenCV here: pixels differ by a level or two.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * np.abs(expected).max())
    other = net.run(255 - view(image, [])[0][None])[0]
    assert np.abs(other - expected).max() > 0.1 * np.abs(expected).max()


@pytest.fixture(scope="module")
def probe(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A linear probe of a tiny backbone, both trained on digits."""
    folder = tmp_path_factory.mktemp("digits")
    for task, extra in (
        ("pt", ["Model.neck.hidden_channels=32", "Model.neck.out_channels=32"]),
        ("lp", [f"Global.pretrained_model={folder}/pt", "Global.epochs=20", *SPARSE]),
    ):
        recipe = str(root / f"configs/simsiam_r18_{task}_digits.yaml")
        assert train.main(["-c", recipe, "-o", *TINY, f"Global.output_dir={folder}/{task}", *extra]) == 0
    return folder / "lp"


@FORMAT
def test_a_probe_gives_the_same_class_for_every_test_image(name: str, probe: Path, tmp_path: Path) -> None:
    skip_without(name)
    from passl_simsiam.data.datasets.digits import Digits
    from passl_simsiam.tasks.pretrained import load_pretrained

    out = tmp_path / "out"
    assert command.main([str(probe), str(out), "--format", name, "--raw"]) == 0
    summary = json.loads((out / "export.json").read_text())
    assert summary["classes"] == [str(digit) for digit in range(10)]
    assert set(summary["checked"][name]) == {"random pixels", "images of DataLoader.Eval"}
    assert summary["source"]["sha256"] == digest(io.find(probe, "best") / io.MODEL)

    loaded, data = load_pretrained(probe), Digits("val")
    images = np.concatenate([loaded.transform(data.read(i), []) for i in range(len(data))])
    classes = FORMATS[name].open(out)(images).argmax(1)
    from passl_simsiam.models.normalize import Normalize

    normalise = Normalize(loaded.images.mean, loaded.images.std)
    expected = loaded.logits()(normalise(paddle.to_tensor(images))).numpy().argmax(1)
    assert len(np.unique(expected)) > 5  # a network that calls everything a 1 would prove nothing
    assert (classes == expected).sum() == len(data) == 364

    cv2.imwrite(str(tmp_path / "digit.png"), images[0])
    assert use(out, name, tmp_path / "digit.png")[-2] == str(expected[0])


def test_the_command(probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    backbone = tmp_path / "backbone"
    assert command.main([str(probe.parent / "pt"), str(backbone)]) == 0
    said = capsys.readouterr()
    assert f"{backbone}: model.json, model.pdiparams, use_paddle.py, export.json" in said.out
    assert "input images: float32 ['batch', 3, 16, 16]; features: float32 ['batch', 32]" in said.out
    assert "paddle, 68 images of DataLoader.Eval: differs by at most" in said.out
    assert said.err == ""

    assert command.main([str(probe), str(tmp_path / "features"), "--layer", "backbone"]) == 0
    assert json.loads((tmp_path / "features/export.json").read_text())["output"]["meaning"] == "features"

    photos = tmp_path / "photos/train/a"
    photos.mkdir(parents=True)
    picture(photos / "a.png", 20, 30)
    assert command.main([str(probe), str(tmp_path / "own"), "--images", str(tmp_path / "photos")]) == 0
    assert f"68 images of {tmp_path}/photos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        ("pt", ["--layer", "logits"], "is no classifier"),
        ("lp", ["--layer", "projector"], "has no projector"),
        ("lp", ["--images", "/nowhere"], "there are no images at /nowhere"),
        ("p", [], "there are no weights at"),
    ],
)
def test_mistakes_end_in_one_line(
    source: str, more: list[str], words: str, probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert command.main([str(probe.parent / source), str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert list(tmp_path.iterdir()) == []


def test_the_command_knows_every_choice() -> None:
    """It lists them itself, for a --help without Paddle."""
    assert tuple(FORMATS) == command.FORMATS
    assert OUTPUTS == command.OUTPUTS
