"""What every task starts from: the process set up, the data of each split, the run's folder and log, the resume."""

from __future__ import annotations

import json
import platform
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from passl_simsiam import __version__, build, distributed, runtime
from passl_simsiam.checkpoint import io
from passl_simsiam.config import Config, to_yaml
from passl_simsiam.config.schema import Split
from passl_simsiam.distributed import World
from passl_simsiam.engine.signals import StopSignals
from passl_simsiam.engine.step import Requests
from passl_simsiam.errors import Interrupted, TrainingError, UserError
from passl_simsiam.evaluation.features import Features, extract
from passl_simsiam.log import RunLog
from passl_simsiam.models.normalize import Normalize

if TYPE_CHECKING:
    from passl_simsiam.data.base import Dataset, Transform
    from passl_simsiam.data.loader import Loader


@dataclass
class Session:
    """One command at work on one recipe.

    Attributes:
        saved: the checkpoint that the run goes on from, or None at its beginning.
        environment: the variables that were set before Paddle was imported.
        requests: what this process asks of all ranks at the next step.
        signals: SIGTERM and SIGINT, while training.
    """

    config: Config
    world: World
    log: RunLog
    saved: io.Checkpoint | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    requests: Requests = field(default_factory=Requests)

    @cached_property
    def signals(self) -> StopSignals:
        return StopSignals(self.requests)

    @property
    def folder(self) -> Path:
        return Path(self.config.Global.output_dir)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.log.note(_told(error))
        self.log.close()
        distributed.stop(None if isinstance(error, Interrupted) else error)


def _told(error: BaseException) -> str:
    """What log.txt keeps of the end of a run: the line that the console shows, or a traceback where it shows one."""
    if isinstance(error, (UserError, TrainingError, Interrupted)):
        return f"ENDED: {error}"
    return "ENDED\n" + "".join(traceback.format_exception(error)).rstrip()


def open_session(config: Config, environment: Mapping[str, str], *, writes: bool) -> Session:
    """Choose the device, join the other ranks, seed, and open the run's folder.

    Args:
        writes: False (a dry run, an evaluation) logs to the console only and leaves the run's folder alone.

    Raises:
        UserError: no such device; a folder that holds another run; a checkpoint to resume that is not there.
    """
    world = distributed.from_environment()
    device = runtime.choose_device(config.Global.device)
    distributed.start(world, config.Global.hang_timeout)
    damaged: list[str] = []
    saved = _find_checkpoint(config, world, damaged.append) if writes else None
    runtime.seed_everything(config.Global.seed)
    log = RunLog(
        config.Global.output_dir if writes else None,
        rank=world.rank,
        resume_step=saved.state["step"] if saved else None,
    )
    session = Session(config, world, log, saved, environment)
    if writes and world.is_main:
        (session.folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        for section, node in config.model_dump(mode="json").items():
            log.text(f"config/{section}", json.dumps(node), step=saved.state["step"] if saved else 0)
    log.info(
        f"passl_simsiam {__version__}, PaddlePaddle {paddle.__version__}, Python {platform.python_version()}, "
        f"device {device}, {world.size} process(es), {runtime.usable_cores()} cores"
    )
    if environment:
        log.info("set for this CPU: " + " ".join(f"{key}={value}" for key, value in environment.items()))
    for line in damaged:
        log.warn(line)
    if saved:
        log.info(f"resuming from {saved.path} at step {saved.state['step']}")
        if saved.state["config"]:  # a converted checkpoint has none
            _warn_of_changes(saved.state["config"], config, log)
        before = saved.state.get("processes", world.size)
        if before != world.size:
            log.info(
                f"{before} process(es) before, {world.size} now: the same batches and views, but sums are taken in "
                "another order, so the weights are the same up to rounding, no longer bitwise"
            )
    return session


def _find_checkpoint(config: Config, world: World, warn: Callable[[str], None]) -> io.Checkpoint | None:
    """The checkpoint that Global.checkpoint names; None to start anew, which must not overwrite another run."""
    folder, wanted = Path(config.Global.output_dir), config.Global.checkpoint
    if world.is_main and wanted in ("auto", "latest"):
        io.clean(folder)  # what a killed save left; only one process may
    distributed.barrier(world, "looking for a checkpoint")
    saved = None
    if wanted == "latest" or (wanted == "auto" and io.exists(folder)):
        saved = io.load(io.find(folder, warn=warn))
    elif wanted not in (None, "auto"):
        saved = io.load(io.find(Path(wanted), warn=warn))
    elif wanted is None and (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size:
        raise UserError(
            f"Global.output_dir: {folder} holds a run already; go on with it by -o Global.checkpoint=latest, "
            "or give the new run another Global.output_dir"
        )
    # From here on the main rank writes: all have looked.
    steps = distributed.gather_rows(np.array([saved.state["step"] if saved else -1]), world).tolist()
    if len(set(steps)) > 1:
        raise UserError(
            f"Global.checkpoint: the processes found different checkpoints, of steps {steps} by rank (-1: none); "
            "Global.output_dir must be on a disk that all machines share"
        )
    return saved


def checkpoint_to_score(config: Config, log: RunLog) -> io.Checkpoint:
    """What `passl-eval` scores: Global.checkpoint, or else the best of the run's folder, or its latest.

    Raises:
        UserError: there is none.
    """
    folder, wanted = Path(config.Global.output_dir), config.Global.checkpoint
    if wanted in (None, "latest", "auto"):
        which = "best" if wanted != "latest" and io.pointed(folder / io.FOLDER, "best") else "latest"
        path = io.find(folder, which)
    else:
        path = io.find(Path(wanted))
    checkpoint = io.load(path)
    log.info(f"checkpoint {path}, step {checkpoint.state['step']}, epoch {checkpoint.state['epoch']}")
    return checkpoint


#: What may differ on resume without another training: where and how often things are written, how data is loaded.
_HARMLESS = {"output_dir", "max_steps", "device", "threads", "print_batch_step", "save_every_epochs", "keep_last"}
_HARMLESS |= {"checkpoint", "loader", "save_every_steps", "save_every_minutes", "on_save_error", "max_skipped_steps"}
_HARMLESS |= {"hang_timeout", "Faults", "Evaluation", "Health"}


def _warn_of_changes(old: Mapping[str, Any], config: Config, log: RunLog) -> None:
    before, now = flatten(old), flatten(config.model_dump(mode="json"))
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key) and not _HARMLESS & set(key.split("."))
    )
    if changed:
        listed = ", ".join(f"{key} ({before.get(key)} -> {now.get(key)})" for key in changed)
        log.warn(f"the recipe is not the one that the checkpoint was trained with: {listed}")


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(node, Mapping):
        return {prefix: json.dumps(node)}
    return {
        k: v for key, value in node.items() for k, v in flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }


@dataclass(frozen=True)
class Data:
    """One split: its images, its views, the loader of both, and the normalisation of a batch on the device."""

    dataset: Dataset
    transform: Transform
    loader: Loader
    normalize: Normalize

    def features(self, layer: paddle.nn.Layer, world: World) -> Features:
        """`layer`, in evaluation mode, of every image; see `extract`."""
        return gather(self.share(layer), world)

    def share(self, layer: paddle.nn.Layer) -> Features:
        """`layer`, in evaluation mode, of this rank's images that can be read, in rising order."""
        return extract(self._encoder(layer), self.loader.epoch(0))

    def extract(self, encode: Callable[[np.ndarray], np.ndarray], world: World) -> Features:
        """`encode` (uint8 [b, H, W, C] -> [b, d]) of every image that can be read, those of all ranks together."""
        return gather(extract(encode, self.loader.epoch(0)), world)

    def encoded(self, layer: paddle.nn.Layer) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(features float32 [b, d], their images int64 [b]) of this rank's images, batch by batch."""
        encode = self._encoder(layer)
        for batch in self.loader.epoch(0):
            yield encode(batch["views"][0]), batch["index"].copy()

    def _encoder(self, layer: paddle.nn.Layer) -> Callable[[np.ndarray], np.ndarray]:
        layer.eval()

        def encode(images: np.ndarray) -> np.ndarray:
            with paddle.no_grad():
                return layer(self.normalize(paddle.to_tensor(images))).numpy()

        return encode


def gather(part: Features, world: World) -> Features:
    """The features of all ranks together, in the order of the data set."""
    if world.size == 1:
        return part
    whole = Features(*(distributed.gather_rows(array, world) for array in part))
    order = np.argsort(whole.indices)
    return Features(*(array[order] for array in whole))


def open_data(session: Session, split: Split, where: str, dataset: Dataset | None = None) -> Data:
    """The data of DataLoader.Train or DataLoader.Eval. Raises UserError.

    Args:
        dataset: read instead of the split's own (the training images with the evaluation transform, for the kNN bank).
    """
    images = build.dataset(split, where) if dataset is None else dataset
    views = build.transform(split, where)
    loader = build.loader(split, where, images, views, session.config.Global.seed, session.world)
    return Data(images, views, loader, Normalize(images.mean, images.std))
