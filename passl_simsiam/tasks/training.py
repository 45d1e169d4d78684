"""What all tasks that train share: optimizer and schedule, loading weights, the resume, the call of the one loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import paddle

from passl_simsiam import build
from passl_simsiam.checkpoint.random_state import restore_random_state
from passl_simsiam.checkpoint.weights import apply_weights, load_weights
from passl_simsiam.engine.callbacks import Recorder, Saver, restore
from passl_simsiam.engine.loop import Callback, Learner, TrainState, fit
from passl_simsiam.errors import UserError
from passl_simsiam.models.sync_batchnorm import synchronize_batch_norm
from passl_simsiam.optim.groups import ParamGroup, rates_at
from passl_simsiam.optim.momentum import Momentum
from passl_simsiam.optim.schedules import Schedule
from passl_simsiam.tasks.pretrained import Images
from passl_simsiam.tasks.session import Data, Session


@dataclass(frozen=True)
class Training:
    """A learner with its data, optimizer and schedule."""

    session: Session
    learner: Learner
    data: Data
    groups: Sequence[ParamGroup]
    optimizer: Momentum
    schedule: Schedule

    @classmethod
    def prepare(cls, session: Session, learner: Learner, data: Data) -> Training:
        """Build optimizer and schedule for what is trainable in the learner's model. Raises UserError."""
        config = session.config
        load_backbone(session, learner.model)
        if session.world.size > 1:
            if config.Global.sync_batch_norm:
                synchronize_batch_norm(learner.model)
            # It copies the main rank's weights to the others and averages gradients; names stay those of the model.
            learner.forward = paddle.DataParallel(learner.model)
        groups = build.parameter_groups(config, learner.model)
        optimizer = build.optimizer(config, groups)
        schedule = build.schedule(config, len(data.loader))
        return cls(session, learner, data, groups, optimizer, schedule)

    def describe(self) -> None:
        """Log what is derived from the recipe: what the run does in fact."""
        config, log = self.session.config, self.session.log
        sampler, rate = config.DataLoader.Train.sampler, config.LRScheduler
        stem = getattr(self.learner.model.backbone, "stem", None)
        log.info(
            f"{config.Global.task}: {config.Model.name} with {config.Model.backbone.name}"
            + (f", {stem} stem" if stem else "")
            + f", {len(self.data.dataset)} images, {len(self.data.loader)} steps an epoch, "
            + f"{config.Global.epochs} epochs"
        )
        scaled = (
            f" ({rate.learning_rate} x {sampler.batch_size} / {rate.reference_batch})" if rate.reference_batch else ""
        )
        parts = ", ".join(f"{group.name}: {group.rate}" for group in self.groups)
        if self.session.world.size > 1:
            synchronized = "synchronised" if config.Global.sync_batch_norm else "by process"
            log.info(f"{self.session.world.size} processes, batch norm {synchronized}")
        log.info(
            f"global batch {sampler.batch_size}, {sampler.batch_size // self.session.world.size} a process; "
            f"learning rate {self.schedule.base_rate:g}{scaled}, {rate.name}; groups {parts}"
        )

    def begin(self) -> TrainState:
        """The state that training starts from: that of the session's checkpoint, which is loaded, or a fresh one."""
        state, saved = TrainState(), self.session.saved
        if saved:
            apply_weights(self.learner.model, saved.model, source=str(saved.path))
            self.optimizer.load_state_dict({k: paddle.to_tensor(v) for k, v in saved.optimizer.items()})
            restore_random_state(saved.state["random"])
            restore(state, saved.state)
        return state

    def rates(self, step: int) -> dict[str, float]:
        return rates_at(self.groups, self.schedule, step)

    def fit(self, state: TrainState, callbacks: Sequence[Callback], *, best_by: str) -> None:
        """Train to the end, with records, progress bar and checkpoints beside the task's own callbacks."""
        node, log, loader = self.session.config.Global, self.session.log, self.data.loader
        total = min(node.epochs * len(loader), node.max_steps or node.epochs * len(loader))
        if state.step >= total:
            log.info(f"nothing to train: the checkpoint stands at step {state.step} of {total}")
            return
        with loader, log.progress(total, start=state.step, label=node.task) as bar:
            recorder = Recorder(log, bar, loader, node.print_batch_step, node.epochs, self.session.world)
            fit(
                self.learner,
                loader,
                self.optimizer,
                self.rates,
                epochs=node.epochs,
                state=state,
                max_steps=node.max_steps,
                accumulate=node.accumulate_steps,
                callbacks=[recorder, *callbacks, *self._savers(best_by)],
            )

    def _savers(self, best_by: str) -> list[Callback]:
        if not self.session.world.is_main:
            return []
        node = self.session.config.Global
        return [
            Saver(
                self.session.folder,
                self._contents,
                every=node.save_every_epochs,
                keep=node.keep_last,
                best_by=best_by,
                config=self.session.config.model_dump(mode="json"),
                data=asdict(Images.of(self.data.dataset)),
            )
        ]

    def _contents(self) -> dict[str, Any]:
        return {"model": self.learner.model.state_dict(), "optimizer": self.optimizer.state_dict()}


def loss_of(loss: Callable[..., paddle.Tensor], outputs: Mapping[str, Any], model: paddle.nn.Layer) -> paddle.Tensor:
    """`loss(outputs)`. Raises UserError when the loss needs an output that the model does not give."""
    try:
        return loss(outputs)
    except KeyError as error:
        raise UserError(
            f"Loss: {type(loss).__name__} needs {error} of the model; {type(model).__name__} gives "
            f"{', '.join(sorted(outputs))}"
        ) from error


def load_backbone(session: Session, model: paddle.nn.Layer) -> bool:
    """Load the backbone from Global.pretrained_model, strictly; False where the recipe names none. Raises UserError."""
    source = session.config.Global.pretrained_model
    if source is None:
        return False
    counts = apply_weights(model.backbone, load_weights(source), prefix="backbone.", source=source)
    session.log.info(f"backbone weights from {source}: {counts}")
    return True
