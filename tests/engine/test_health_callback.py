"""Which steps the health callback reports, and that its numbers are those of the functions on the same arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from passl_simsiam.distributed import World
from passl_simsiam.engine.guard import CollapseGuard
from passl_simsiam.engine.health import METRICS, Health
from passl_simsiam.engine.loop import TrainState
from passl_simsiam.evaluation import health


class Log:
    """Remembers what would be written."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.histograms: list[np.ndarray] = []
        self.warnings: list[str] = []

    def record(self, values: dict[str, Any]) -> None:
        self.records.append(values)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        self.histograms.append(values)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Model(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = (paddle.nn.Linear(3, 3) for _ in range(3))
        for parameter in self.head.parameters():
            parameter.stop_gradient = True


def callback(log: Log, model: paddle.nn.Layer | None = None, **changes: Any) -> Health:
    guard = CollapseGuard("stop", std_below=0.2, rank_below=2.0, reports=1, grace_steps=0, causes="")
    arguments: dict[str, Any] = {"every": 3, "sample": 10, "steps_per_epoch": 7} | changes
    return Health(log, model or Model(), guard, World(), **arguments)  # type: ignore[arg-type]


def outputs(seed: int, rows: int = 4) -> dict[str, list[paddle.Tensor]]:
    rng = np.random.default_rng(seed)
    widths = {"h": 6, "z": 8, "p": 8}
    return {
        key: [paddle.to_tensor(rng.standard_normal([rows, width]).astype("float32")) for _ in range(2)]
        for key, width in widths.items()
    }


def run(seen: Health, steps: int, make: Any = outputs) -> TrainState:
    state = TrainState(last_step=steps)
    for step in range(1, steps + 1):
        state.outputs = make(step)
        seen.before_update(state)
        state.step, state.epoch = step, (step - 1) // 7 + 1
        seen.after_step(state)
        if step % 7 == 0:
            seen.after_epoch(state)
        if state.stop:
            break
    return state


def test_it_reports_every_so_many_steps_of_an_epoch_and_leaves_its_last_to_the_epochs_record() -> None:
    log = Log()
    state = run(callback(log), 16)
    assert [r["step"] for r in log.records] == [3, 6, 10, 13, 16]  # 7 and 14 end an epoch, 16 the run
    assert len(log.histograms) == 2
    assert "step" not in state.metrics
    assert state.metrics["health/std"] == pytest.approx(_expected(14)["health/std"], rel=1e-6)


def test_the_numbers_are_those_of_the_last_images() -> None:
    log = Log()
    run(callback(log), 6)
    for record in log.records:
        expected = _expected(record["step"])
        assert {k: record[k] for k in expected} == pytest.approx(expected, rel=1e-6)


def _expected(step: int) -> dict[str, float]:
    """Ranks are of the newest ten rows, four a step, the spread of the three steps that they take, the rest of one."""
    z, h = ([outputs(s)[key][0].numpy() for s in range(max(1, step - 2), step + 1)] for key in ("z", "h"))
    (z1, z2), (p1, p2) = ([x.numpy() for x in outputs(step)[key]] for key in ("z", "p"))
    return {
        "health/std": np.mean([health.feature_std(batch) for batch in z]),
        "health/relative_std": np.mean([health.feature_std(batch) for batch in z]) * np.sqrt(8),
        "health/rank": health.effective_rank(np.concatenate(h)[-10:]),
        "health/rank_z": health.effective_rank(np.concatenate(z)[-10:]),
        "health/uniformity": health.uniformity(z1),
        "health/alignment": health.alignment(z1, z2),
        "health/cosine": (health.mean_cosine(p1, z2) + health.mean_cosine(p2, z1)) / 2,
    }


def test_gradient_norms_by_part() -> None:
    log, model = Log(), Model()
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal([5, 3]).astype("float32"))
    model.head(model.neck(model.backbone(x))).square().sum().backward()
    run(callback(log, model), 3)
    for part in ("backbone", "neck"):
        layer = getattr(model, part)
        flat = np.concatenate([p.grad.numpy().ravel() for p in layer.parameters()])
        assert log.records[0][f"health/gradient_{part}"] == pytest.approx(np.linalg.norm(flat), rel=1e-6)
    assert "health/gradient_head" not in log.records[0]  # it is frozen
    assert set(log.records[0]) - {"step", "epoch"} <= set(METRICS)


def test_a_method_without_predictor_and_features() -> None:
    log = Log()
    run(callback(log), 3, lambda step: {"z": outputs(step)["z"]})
    assert "health/std" in log.records[0]
    assert not {"health/cosine", "health/rank"} & set(log.records[0])


def test_a_collapse_ends_the_run() -> None:
    log = Log()

    def same(step: int) -> dict[str, list[paddle.Tensor]]:
        """Equal for all images of a batch, but not from one batch to the next."""
        return {key: [tensor[:1].expand([4, -1]) for tensor in pair] for key, pair in outputs(step).items()}

    state = run(callback(log), 16, same)
    assert state.step == 6  # warned at 3
    assert state.stop == log.warnings[1]
    assert "0.0% of 1/sqrt(d)" in log.warnings[0]
