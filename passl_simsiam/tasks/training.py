"""What all tasks that train share: optimizer and schedule, loading weights, the resume, the call of the one loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import paddle

from passl_simsiam import build, distributed
from passl_simsiam.checkpoint import io, pdparams
from passl_simsiam.checkpoint.random_state import restore_random_state
from passl_simsiam.checkpoint.weights import apply_weights, load_weights
from passl_simsiam.engine.best import Best
from passl_simsiam.engine.callbacks import Recorder
from passl_simsiam.engine.loop import ASKED, Callback, TrainState, fit
from passl_simsiam.engine.nonfinite import NonFiniteSteps, inject_non_finite
from passl_simsiam.engine.precision import LossScaler, autocast
from passl_simsiam.engine.saver import Saver
from passl_simsiam.engine.step import Learner, Stepper
from passl_simsiam.errors import Interrupted, UserError, suggest
from passl_simsiam.models.sync_batchnorm import synchronize_batch_norm
from passl_simsiam.optim.groups import ParamGroup, rates_at
from passl_simsiam.optim.momentum import Momentum
from passl_simsiam.optim.schedules import Schedule
from passl_simsiam.tasks.pretrained import Images
from passl_simsiam.tasks.session import Data, Session
from passl_simsiam.zoo import resolve


@dataclass(frozen=True)
class Training:
    """A learner with its data, optimizer and schedule."""

    session: Session
    learner: Learner
    data: Data
    groups: Sequence[ParamGroup]
    optimizer: Momentum
    schedule: Schedule
    scaler: LossScaler | None

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
        scaler = _mix_precision(session, learner)
        groups = build.parameter_groups(config, learner.model)
        optimizer = build.optimizer(config, groups)
        schedule = build.schedule(config, len(data.loader))
        return cls(session, learner, data, groups, optimizer, schedule, scaler)

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
            if saved.state["random"]:  # a converted checkpoint has none: its generators start from the seed
                restore_random_state(saved.state["random"])
            state.restore(saved.state)
            if self.scaler is not None and saved.state.get("scaler"):
                self.scaler.load_state_dict(saved.state["scaler"])
            own = saved.path.parent == self.session.folder / io.FOLDER
            if self.session.world.is_main and own and state.best_epoch == state.epoch:
                io.mark_best(self.session.folder, saved.path.name)  # the run may have been killed before it did
        return state

    def rates(self, step: int) -> dict[str, float]:
        return rates_at(self.groups, self.schedule, step)

    @property
    def stepper(self) -> Stepper:
        """What takes the optimizer's steps, as the recipe cuts and scales them."""
        parts = self.session.config.Global.accumulate_steps
        return Stepper(self.learner, self.optimizer, self.session.world, accumulate=parts, scaler=self.scaler)

    def fit(
        self, state: TrainState, callbacks: Sequence[Callback], *, best_by: str | None, metrics: Collection[str] = ()
    ) -> None:
        """Train to the end, with records, progress bar and checkpoints beside the task's own callbacks.

        Args:
            best_by: the metric that chooses `best` unless the recipe names another; None: there is no `best` then.
            metrics: what else an epoch's record holds by which a recipe may choose.

        Raises:
            UserError: the recipe chooses `best` by what is not measured.
            Interrupted: a signal asked to stop; where training stands is saved.
            TrainingError: training cannot go on, or its result could not be saved.
        """
        session, loader = self.session, self.data.loader
        node, log = session.config.Global, session.log
        total = min(node.epochs * len(loader), node.max_steps or node.epochs * len(loader))
        if state.step >= total and not state.epoch_due:
            log.info(f"nothing to train: the checkpoint stands at step {state.step} of {total}")
            return
        if faults := session.config.Faults:
            inject_non_finite(self.learner, state, faults.nonfinite_step, faults.nonfinite_count)
        metric, best = self._best(best_by, metrics)
        saver = self._saver(metric)
        distributed.barrier(session.world, "beginning to train")
        with session.signals, loader, log.progress(total, start=state.step, label=node.task) as bar:
            recorder = Recorder(log, bar, loader, node.print_batch_step, node.epochs)
            skipped = NonFiniteSteps(
                node.max_skipped_steps, session.folder, self.data.dataset.name, saver.save, log, session.world
            )
            try:
                fit(
                    self.stepper,
                    loader,
                    self.rates,
                    epochs=node.epochs,
                    state=state,
                    max_steps=node.max_steps,
                    requests=session.requests,
                    callbacks=[recorder, skipped, *callbacks, *best, saver],
                )
            except Exception:
                # In an evaluation, every rank holds the same weights: what to save needs no agreement. The exception is
                # then the interruption, or what it did to a rank that waited for an interrupted one.
                if not (session.signals.received and state.epoch_due):
                    raise
                saver.save_alone(state)
                state.stop = ASKED
        if state.stop == ASKED:
            by = session.requests.stop or "another process"
            raise Interrupted(f"stopped by {by} after step {state.step}, which is saved")
        if session.world.is_main:
            try:
                log.info(f"the weights once more, for Paddle's own tools: {pdparams.write_beside(session.folder)}")
            except UserError as error:  # the run is done and saved, and passl-convert can do this later
                log.warn(f"no weights for Paddle's own tools: {error}")

    def _best(self, default: str | None, metrics: Collection[str]) -> tuple[str | None, list[Best]]:
        node = self.session.config.Evaluation.best_by
        metric = node.metric or default
        choices = {"train/epoch_loss", *metrics, *([default] if default else [])}
        if metric is None:
            if node.patience:
                raise UserError(
                    "Evaluation.best_by.patience: there is no kNN top-1 to wait for; name another metric by "
                    f"Evaluation.best_by.metric; {suggest('health/rank', choices)}"
                )
            return None, []
        if metric not in choices:
            raise UserError(f"Evaluation.best_by.metric: {metric!r} is not measured; {suggest(metric, choices)}")
        lowest = node.mode == "min" if node.mode else "loss" in metric
        return metric, [Best(self.session.log, metric, lowest=lowest, patience=node.patience)]

    def _saver(self, best_by: str | None) -> Saver:
        node = self.session.config.Global
        return Saver(
            self.session.folder,
            self._contents,
            self._about,
            self.session.log,
            self.session.world,
            self.session.requests,
            every_epochs=node.save_every_epochs,
            every_steps=node.save_every_steps,
            every_minutes=node.save_every_minutes,
            keep=node.keep_last,
            best_by=best_by,
            on_error=node.on_save_error,
        )

    def _contents(self) -> dict[str, Any]:
        return {"model": self.learner.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def _about(self) -> dict[str, Any]:
        return {
            "config": self.session.config.model_dump(mode="json"),
            "data": asdict(Images.of(self.data.dataset)),
            "processes": self.session.world.size,
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
        }


def _mix_precision(session: Session, learner: Learner) -> LossScaler | None:
    """Put the forward pass under the recipe's AMP; the scaler of the loss, if its type needs one."""
    node = session.config.AMP
    if node is None:
        return None
    if not paddle.get_device().startswith("gpu"):
        session.log.warn(f"AMP {node.level} {node.dtype}: not on a CPU, where all is computed in float32")
        return None
    learner.forward = autocast(learner.forward, node.level, node.dtype)
    session.log.info(f"AMP {node.level}, {node.dtype}: weights, statistics and the loss stay float32")
    return LossScaler() if node.dtype == "float16" else None


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
    counts = apply_weights(model.backbone, load_weights(resolve(source)), prefix="backbone.", source=source)
    session.log.info(f"backbone weights from {source}: {counts}")
    return True
