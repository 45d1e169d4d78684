"""How healthy a representation is while it trains, without labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from passl_simsiam import distributed
from passl_simsiam.distributed import World
from passl_simsiam.engine.guard import CollapseGuard
from passl_simsiam.engine.loop import Callback, TrainState
from passl_simsiam.evaluation import health

if TYPE_CHECKING:
    from passl_simsiam.log import RunLog

Array = np.ndarray[Any, Any]

#: Metrics, every one of them the mean over ranks of what each finds in its share of the batches.
METRICS = {
    "health/std": "standard deviation of z/|z| by channel; healthy near 1/sqrt(d), 0 in a collapse",
    "health/relative_std": "the same as a share of 1/sqrt(d); healthy near 1",
    "health/rank": "effective rank of the backbone's features; 1 in a collapse",
    "health/rank_z": "effective rank of z; 1 in a collapse",
    "health/alignment": "mean squared distance of z/|z| of two views of an image; lower is more alike",
    "health/uniformity": "log of the mean over pairs of images of exp(-2 |difference of z/|z||^2); 0 in a collapse",
    "health/cosine": "cosine of each prediction p with the other view's z",
    "health/gradient_backbone": "Euclidean norm of the part's gradient, averaged over ranks",
    "health/gradient_neck": "the same of the projector",
    "health/gradient_head": "the same of the predictor",
}
#: Those that the epoch's line does not say.
UNSAID = METRICS.keys() - {"health/std", "health/rank"}


class Health(Callback):
    """Measures every so many steps of an epoch, and at its end, and shows the guard what it finds.

    Ranks are of the first view of the last `sample` images, which takes several steps where a batch is smaller. All
    else is of single batches, for between batches the weights move and batch norm shifts: a collapsed z, equal for all
    images of a batch, can be another one in the next. The spread is the mean of those of the sample's batches. Nothing
    but references to a few small tensors on the device is kept between reports, and nothing in checkpoints: after a
    resume the sample fills again.

    Args:
        model: its children (backbone, neck, head) are the parts whose gradients are measured.
        every: steps from one report to the next, within an epoch.
        sample: images of this rank.
    """

    def __init__(
        self,
        log: RunLog,
        model: paddle.nn.Layer,
        guard: CollapseGuard,
        world: World,
        *,
        every: int,
        sample: int,
        steps_per_epoch: int,
    ) -> None:
        self._log, self._guard, self._world = log, guard, world
        self._every, self._sample, self._steps_per_epoch = every, sample, steps_per_epoch
        self._parts = {
            name: [p for p in part.parameters() if not p.stop_gradient] for name, part in model.named_children()
        }
        self._recent: deque[dict[str, paddle.Tensor]] = deque()
        self._gradients: dict[str, float] = {}

    def before_update(self, state: TrainState) -> None:
        if self._reports(state.step + 1, state.last_step):
            self._gradients = _gradient_norms(self._parts)

    def after_step(self, state: TrainState) -> None:
        self._remember(state.outputs)
        if not self._reports(state.step, state.last_step):
            return
        values = self._measure(state.outputs)
        if "health/relative_std" in values:
            self._judge(state, values)
        if state.step % self._steps_per_epoch == 0 and not state.stop:
            state.metrics |= values  # the epoch's record has them
        else:
            self._log.record({"step": state.step, "epoch": state.epoch, **values})

    def after_epoch(self, state: TrainState) -> None:
        if self._recent and "z" in self._recent[-1]:
            spread = health.channel_std(self._recent[-1]["z"].numpy())
            self._log.histogram("health/channel_std_of_z", spread, state.step)

    def _reports(self, step: int, last_step: int) -> bool:
        """Whether `step`, counted when finished, is one that reports."""
        in_epoch = (step - 1) % self._steps_per_epoch + 1
        return in_epoch % self._every == 0 or in_epoch == self._steps_per_epoch or step == last_step

    def _remember(self, outputs: Mapping[str, Any]) -> None:
        """Add the step's first view, and forget what the sample no longer needs."""
        self._recent.append({key: outputs[key][0].detach() for key in ("h", "z") if key in outputs})
        while sum(map(_rows, self._recent)) - _rows(self._recent[0]) >= self._sample:
            self._recent.popleft()

    def _measure(self, outputs: Mapping[str, Any]) -> dict[str, float]:
        """All metrics that the model's outputs allow; alike on all ranks."""
        found: dict[str, float] = {}
        recent = {key: [_fetched(step[key], self._sample) for step in self._recent] for key in self._recent[-1]}
        if "z" in recent:
            z1, z2 = (_fetched(x, self._sample) for x in outputs["z"])
            found["health/std"] = float(np.mean([health.feature_std(z) for z in recent["z"]]))
            found["health/relative_std"] = found["health/std"] * z1.shape[1] ** 0.5
            found["health/rank_z"] = health.effective_rank(np.concatenate(recent["z"])[-self._sample :])
            found["health/uniformity"] = health.uniformity(z1)
            found["health/alignment"] = health.alignment(z1, z2)
            if "p" in outputs:
                p1, p2 = (_fetched(x, self._sample) for x in outputs["p"])
                found["health/cosine"] = (health.mean_cosine(p1, z2) + health.mean_cosine(p2, z1)) / 2
        if "h" in recent:
            found["health/rank"] = health.effective_rank(np.concatenate(recent["h"])[-self._sample :])
        names = list(found)
        sums = distributed.total([found[name] for name in names], self._world)
        means = {name: value / self._world.size for name, value in zip(names, sums, strict=True)}
        return means | self._gradients  # which are the same on all ranks already

    def _judge(self, state: TrainState, values: Mapping[str, float]) -> None:
        verdict = self._guard.judge(state.step, values["health/relative_std"], values["health/rank_z"])
        if verdict is None:
            return
        self._log.warn(verdict.message)
        if verdict.stop:
            state.stop = verdict.message


def _rows(step: Mapping[str, paddle.Tensor]) -> int:
    return max((tensor.shape[0] for tensor in step.values()), default=1)


def _fetched(x: paddle.Tensor, rows: int) -> Array:
    """At most `rows` rows of x on the host, float32."""
    return x[:rows].astype("float32").numpy()


def _gradient_norms(parts: Mapping[str, list[paddle.Tensor]]) -> dict[str, float]:
    """The Euclidean norm of each part's gradient; one wait for the device."""
    squares = {}
    with paddle.no_grad():
        for name, parameters in parts.items():
            terms = [p.grad.astype("float32").square().sum() for p in parameters if p.grad is not None]
            if terms:
                squares[name] = paddle.add_n(terms)
        values = paddle.stack(list(squares.values())).sqrt().tolist() if squares else []
    return {f"health/gradient_{name}": value for name, value in zip(squares, values, strict=True)}
