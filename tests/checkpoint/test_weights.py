"""Loading weights: found under the names users type, set strictly, refused in one line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.pdparams import write_beside
from passl_simsiam.checkpoint.tensors import write_tensors
from passl_simsiam.checkpoint.weights import apply_weights, load_weights
from passl_simsiam.checkpoint.writers import write_pdparams, write_pth
from passl_simsiam.errors import UserError

paddle = pytest.importorskip("paddle")
WEIGHTS = {"backbone.w": np.arange(6, dtype="float32").reshape(2, 3), "head.b": np.array(1.5)}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def test_files_with_and_without_suffix(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", WEIGHTS)
    write_pdparams(tmp_path / "b.pdparams", WEIGHTS)
    write_pth(tmp_path / "c.pth", {"epoch": 3, "state_dict": WEIGHTS})
    paddle.save({k: paddle.to_tensor(v) for k, v in WEIGHTS.items()}, str(tmp_path / "d.v1.pdparams"))
    for name in ("a.safetensors", "a", "b", "b.pdparams", "c", "d.v1"):
        assert same(load_weights(tmp_path / name), WEIGHTS), name
        assert same(load_weights(str(tmp_path / name)), WEIGHTS), name


def test_run_folder_means_best_else_latest(tmp_path: Path) -> None:
    for step in (1, 2):
        io.save(tmp_path, f"epoch_{step}", model={"w": np.full(2, step)}, optimizer={}, state={})
    assert load_weights(tmp_path)["w"][0] == 2
    io.mark_best(tmp_path, "epoch_1")
    assert load_weights(tmp_path)["w"][0] == 1
    assert load_weights(tmp_path / "checkpoints")["w"][0] == 1
    assert load_weights(tmp_path / "checkpoints/latest")["w"][0] == 2
    assert load_weights(tmp_path / "checkpoints/epoch_1")["w"][0] == 1


def test_a_runs_best_weights_for_paddle(tmp_path: Path) -> None:
    """Written beside, read by paddle.load and set_state_dict, and no trouble for the checkpoint."""
    nets = Net(), Net()
    for step, net in enumerate(nets):
        io.save(tmp_path, f"epoch_{step}", model=net.state_dict(), optimizer={}, state={})
    io.mark_best(tmp_path, "epoch_0")
    path = write_beside(tmp_path)
    assert path == tmp_path / "checkpoints/epoch_0/model.pdparams"
    other = Net()
    assert other.set_state_dict(paddle.load(str(path))) == ([], [])
    assert same(arrays(other), arrays(nets[0]))
    io.verify(path.parent)
    io.keep_last(tmp_path, 1)
    assert path.is_file()  # the best is kept
    with pytest.raises(UserError, match="no checkpoint in"):
        write_beside(tmp_path / "nowhere")


def test_what_is_not_there_is_said_with_what_was_meant(tmp_path: Path) -> None:
    write_tensors(tmp_path / "simsiam_r50.safetensors", WEIGHTS)
    (tmp_path / "other.pdparams").write_bytes(pickle.dumps({"epoch": 1, "lr": 0.1}))
    with pytest.raises(UserError, match=r"did you mean 'simsiam_r50.safetensors'"):
        load_weights(tmp_path / "simsiam_r5")
    with pytest.raises(UserError, match=r"folder .* does not exist"):
        load_weights(tmp_path / "nowhere/x")
    with pytest.raises(UserError, match=r"holds no weights.*epoch, lr"):
        load_weights(tmp_path / "other")
    with pytest.raises(UserError, match="there is no checkpoint in"):
        load_weights(tmp_path)


class Net(paddle.nn.Layer):
    def __init__(self, width: int = 3, depth: int = 1) -> None:
        super().__init__()
        self.layers = paddle.nn.Sequential(*[paddle.nn.Linear(2, width) for _ in range(depth)])
        self.bn = paddle.nn.BatchNorm1D(width)


def arrays(layer: Any, prefix: str = "") -> dict[str, np.ndarray]:
    return {prefix + name: tensor.numpy() for name, tensor in layer.state_dict().items()}


def test_all_parameters_and_buffers_are_set(tmp_path: Path) -> None:
    source, target = Net(), Net()
    source.bn._variance.set_value(paddle.to_tensor([3.0, 4.0, 5.0]))
    weights = {**arrays(source, "backbone."), "head.w": np.ones(2)}
    applied = apply_weights(target, weights, prefix="backbone.")
    assert (applied.loaded, applied.unused) == (6, ("head.w",))
    assert same(arrays(source), arrays(target))


def test_values_are_cast_to_the_layers_dtype() -> None:
    target = Net()
    target.to(dtype="float64")
    weights = {
        name: paddle.to_tensor(array).astype("bfloat16").numpy() if "weight" in name else array
        for name, array in arrays(Net()).items()
    }
    apply_weights(target, weights)
    assert target.layers[0].weight.dtype == paddle.float64
    expected = paddle.to_tensor(weights["layers.0.weight"]).astype("float64")
    assert (target.layers[0].weight == expected).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("b.bn._mean"), "1 of 6 missing: bn._mean"),
        (lambda w: w.update({"b.layers.1.weight": w["b.layers.0.weight"]}), "Net: it has no layers.1.weight"),
        (lambda w: w.update({"b.bn.weight": np.ones(4)}), r"bn.weight is \[4\], not \[3\]"),
        (lambda w: w.clear() or w.update({"c.x": np.ones(1)}), "from here .* none of them begins with 'b.'.*c.x"),
    ],
)
def test_any_mismatch_is_an_error_and_changes_nothing(change: Any, message: str) -> None:
    weights = {f"b.{name}": array + 1 for name, array in arrays(Net()).items()}
    change(weights)
    target = Net()
    before = arrays(target)
    with pytest.raises(UserError, match=message):
        apply_weights(target, weights, prefix="b.", source="here")
    assert same(arrays(target), before)
