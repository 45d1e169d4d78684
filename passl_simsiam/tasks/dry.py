"""What a recipe would do, found out by building it and training one step in memory."""

from __future__ import annotations

import resource
import sys

import paddle
from rich.console import Console
from rich.table import Table

from passl_simsiam.engine.loop import TrainState, fit
from passl_simsiam.models.summary import Summary, summarize
from passl_simsiam.tasks.training import Training


def report(training: Training) -> None:
    """Print shapes by stage, parameters, FLOPs, the loss and rates of one step, and the memory that it took."""
    training.describe()
    batch = next(iter(training.data.loader.epoch(0)))
    view = training.data.normalize(paddle.to_tensor(batch["views"][0][:1]))
    backbone = summarize(training.learner.model.backbone, view)
    whole = [view] * training.data.transform.num_views if training.data.transform.num_views > 1 else view
    _print(summarize(training.learner.model, whole), backbone)

    state = TrainState()
    with training.data.loader:
        fit(
            training.stepper,
            training.data.loader,
            training.rates,
            epochs=training.session.config.Global.epochs,
            state=state,
            max_steps=1,
        )
    rates = ", ".join(f"{name} {rate:g}" for name, rate in state.rates.items())
    training.session.log.info(f"one step of {state.images} images: loss {state.loss:.4f}, learning rates {rates}")
    training.session.log.info(f"peak memory: {_memory()}")
    training.session.log.info("dry run: nothing was written")


def _print(model: Summary, backbone: Summary) -> None:
    table = Table(title="One image, by stage (a method's views together)")
    for column in ("stage", "output", "parameters", "MFLOPs"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in model.stages:
        shape = " x ".join(map(str, stage.shape))
        table.add_row(stage.name, shape, f"{stage.parameters:,}", f"{2 * stage.macs / 1e6:,.2f}")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"model: {model.parameters:,} parameters, {model.trainable:,} of them trained; backbone: "
        f"{backbone.parameters:,} parameters, {backbone.flops / 1e9:.3f} GFLOPs an image forward "
        "(a multiply-add counts as 2; batch-norm statistics are not parameters)"
    )


def _memory() -> str:
    """What the process took at most: resident memory, and the GPU's where one is in use."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kilobytes, but bytes on macOS
    parts = [f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB resident"]
    if paddle.get_device().startswith("gpu"):
        parts.append(f"{paddle.device.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU")
    return ", ".join(parts)
