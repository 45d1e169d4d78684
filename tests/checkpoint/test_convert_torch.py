"""Each foreign format: a torch model of that layout computes what our model of the converted weights computes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.convert import convert
from passl_simsiam.checkpoint.inspect import inspect
from passl_simsiam.checkpoint.network import build
from passl_simsiam.checkpoint.proof import prove
from passl_simsiam.checkpoint.tensors import read_tensors
from passl_simsiam.checkpoint.weights import named_tensors
from passl_simsiam.errors import UserError

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
foreign = pytest.importorskip("foreign")


def run(model: Any, images: np.ndarray, nodes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    x, results = model.backbone(paddle.to_tensor(images)), {}
    results["backbone"] = x
    for part in ("neck", "head"):
        if part in nodes:
            x = results[part] = getattr(model, part)(x)
    return {name: value.numpy() for name, value in results.items()}


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


@pytest.mark.parametrize("name", foreign.FORMATS)
def test_computes_the_same_and_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    layout, make, save, lost = foreign.FORMATS[name]
    model = foreign.randomise(make())
    torch.save(save(model.state_dict()), tmp_path / "theirs.pth")

    report = convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", prove=prove)
    assert report.source_format.partition("/")[0] in (layout.partition("/")[0], "torchvision"), report
    assert max(report.differences.values()) < 1e-5
    weights, nodes = read_tensors(tmp_path / "ours.safetensors"), report.architecture
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # In float64 too, where rounding hides nothing. Paddle holds its epsilon and its momentum in float32 even then.
    for mode, dtype, bound in (("eval", "float32", 1e-5), ("train", "float32", 1e-5), ("train", "float64", 1e-7)):
        images = np.random.default_rng(1).normal(size=(32, 3, 32, 32)).astype("float32").astype(dtype)
        ours = build(nodes, weights)
        model.load_state_dict(start)
        model.to(getattr(torch, dtype)), ours.to(dtype=dtype)
        getattr(model, mode)(), getattr(ours, mode)()
        with torch.no_grad(), paddle.no_grad():
            theirs, found = model(torch.from_numpy(images)), run(ours, images, nodes)
        assert set(found) == set(theirs) - ({"head"} if "without fc" in name else set())
        for part in found:
            assert relative(theirs[part].numpy(), found[part]) < bound, (part, mode, dtype)
    bn = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert relative(bn.running_mean.numpy(), ours.backbone.bn1._mean.numpy()) < 1e-6
    # Nine tenths of the old variance, and one of the batch's: over n values in torch, n - 1 of n in Paddle.
    n = images.size // 3 // (4 if nodes["backbone"]["stem"] == "imagenet" else 1)
    old = 0.9 * weights["backbone.bn1._variance"].astype("float64")
    gained, expected = ours.backbone.bn1._variance.numpy() - old, (bn.running_var.numpy() - old) * (n - 1) / n
    assert relative(expected, gained) < 1e-5

    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", target_format=layout)
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    back = back.get("state_dict", back)
    state = named(torch.load(tmp_path / "theirs.pth", weights_only=True))
    tensors = {k: v for k, v in state.items() if not k.startswith(lost)}
    prefix = next((p for p in ("module.", "model.") if all(k.startswith(p) for k in tensors)), "")
    tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    back = {k.removeprefix("module."): v for k, v in back.items()}
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype
        assert torch.equal(back[key], tensor), key


def named(state: Any) -> dict[str, Any]:
    for key in ("state_dict", "net"):
        if key in state:
            return state[key]
    return state


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_the_real_torchvision(tmp_path: Path, shared: Path, depth: int) -> None:
    sys.path.insert(0, str(shared / "golden"))
    pytest.importorskip("torchvision_on_cpu")
    models = pytest.importorskip("torchvision").models
    net = foreign.randomise(getattr(models, f"resnet{depth}")(num_classes=10)).eval()
    torch.save(net.state_dict(), tmp_path / "t.pth")
    report = convert(tmp_path / "t.pth", tmp_path / "ours.safetensors")
    assert report.architecture["backbone"] == {
        "name": f"ResNet{depth}",
        "width": 64,
        "in_channels": 3,
        "stem": "imagenet",
    }
    ours = build(report.architecture, read_tensors(tmp_path / "ours.safetensors"))
    ours.eval()
    images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype("float32")
    with torch.no_grad(), paddle.no_grad():
        logits = net(torch.from_numpy(images)).numpy()
        assert relative(logits, run(ours, images, report.architecture)["head"]) < 1e-5
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", target_format="torchvision")
    net.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True))


def test_strict_loading_of_what_we_write(tmp_path: Path) -> None:
    """Official weights as lightly, solo-learn and official files, each loaded strictly into a model of that project."""
    source = foreign.randomise(foreign.official_cifar())
    torch.save({"state_dict": source.state_dict()}, tmp_path / "o.pth")
    net = foreign.ResNet(18, "cifar")
    c = net.out_channels
    neck = foreign.sequence([c, c, c, foreign.OUT], "none", False, True)
    head = foreign.sequence([foreign.OUT, foreign.BOTTLENECK, foreign.OUT], "last", False, False)
    parts = (foreign.Children(net), torch.nn.Sequential(*neck), torch.nn.Sequential(*head))
    target = foreign.SimSiam(("backbone", "projection_head.layers", "prediction_head.layers"), *parts)
    report = convert(tmp_path / "o.pth", tmp_path / "l.pth", target_format="lightly", prove=prove)
    # The bias in front of the batch norm went into its mean: equal up to rounding.
    assert report.counts["folded"] == 1
    target.load_state_dict(torch.load(tmp_path / "l.pth", weights_only=True))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = source.eval()(images), target.eval()(images)
    for part in expected:
        assert relative(expected[part].numpy(), found[part].numpy()) < 1e-5


def test_momentum_of_an_official_checkpoint(tmp_path: Path) -> None:
    model = foreign.official_cifar()
    model.encoder.fc[6].bias.requires_grad = False
    groups = [
        {"params": model.encoder.parameters(), "fix_lr": False},
        {"params": model.predictor.parameters(), "fix_lr": True},
    ]
    optimizer = torch.optim.SGD(groups, 0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        out = model(torch.randn(4, 3, 32, 32))
        (-torch.cosine_similarity(out["head"], out["neck"].detach().flip(0))).mean().backward()
        optimizer.step()
    state = {"module." + k: v for k, v in model.state_dict().items()}
    torch.save(
        {"epoch": 2, "arch": "resnet18", "state_dict": state, "optimizer": optimizer.state_dict()},
        tmp_path / "c.pth.tar",
    )
    convert(tmp_path / "c.pth.tar", tmp_path / "run", with_optimizer=True)
    saved = io.load(io.find(tmp_path / "run"))
    assert (saved.state["epoch"], saved.state["step"]) == (2, 1)  # two forward passes, one for each view of one step
    trained = {
        n: p
        for n, p in build(inspect(tmp_path / "run").architecture, saved.model).named_parameters()
        if not p.stop_gradient
    }
    assert saved.optimizer.keys() == trained.keys()
    for name, parameter in model.named_parameters():
        ours = name.replace("encoder.fc.", "neck.").replace("encoder.", "backbone.").replace("predictor.", "head.")
        if parameter.requires_grad:
            buffer = optimizer.state[parameter]["momentum_buffer"].numpy()
            assert np.array_equal(
                saved.optimizer[ours], buffer.T if ours[:4] in ("neck", "head") and buffer.ndim == 2 else buffer
            )
    with pytest.raises(UserError, match="is a file"):
        convert(tmp_path / "c.pth.tar", tmp_path / "x.safetensors", with_optimizer=True)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no optimizer"):
        convert(tmp_path / "w.pth", tmp_path / "run2", with_optimizer=True)
    assert not (tmp_path / "run2").exists()


def test_two_layers_of_patrickhuas_projector(tmp_path: Path) -> None:
    """Its second layer is in every file; with set_layers(2) it has never run, and its counter says so."""
    model = foreign.randomise(foreign.patrickhua())
    model.projector.layer2[1].num_batches_tracked.fill_(0)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "p.pth")
    report = convert(tmp_path / "p.pth", tmp_path / "o.safetensors")
    assert report.architecture["neck"]["layers"] == 2
    assert any(fate.fate == "dropped" and "never used" in fate.why for fate in report.fates)
    model.encoder[0].conv1 = torch.nn.Conv2d(3, 8, 3, bias=False)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "q.pth")


def test_named_tensors_of_a_nested_file(tmp_path: Path) -> None:
    assert named_tensors({"model": {"w": np.ones(2)}}, tmp_path).keys() == {"w"}
