"""What can be known to go wrong before a run spends hours: checked by all ranks together, at its start."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle

from passl_simsiam import __version__, distributed, runtime
from passl_simsiam.checkpoint import io
from passl_simsiam.config import Config
from passl_simsiam.data.shared import available_memory
from passl_simsiam.distributed import World
from passl_simsiam.errors import UserError
from passl_simsiam.tasks.session import Session
from passl_simsiam.tasks.training import Training

GRADIENTS = 2**22  # float32 numbers of the all-reduce that is timed, 16 MB: a gradient bucket of a usual size
SLOW = 1.0  # seconds for them; a local network takes a tenth
PACKAGES = ("numpy", "opencv-python-headless", "safetensors")


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    result: Literal["ok", "warn", "fail"]
    detail: str


def agree(world: World, facts: Mapping[str, str]) -> list[Check]:
    """Whether all ranks know the same facts: a check of each.

    Args:
        facts: the same names on all ranks.
    """
    digests = [int.from_bytes(hashlib.sha256(fact.encode()).digest()[:7], "big") for fact in facts.values()]
    table = distributed.gather_rows(np.array([digests], dtype=np.int64), world)
    return [_compare(name, fact, table[:, n].tolist()) for n, (name, fact) in enumerate(facts.items())]


def _compare(name: str, fact: str, digests: Sequence[int]) -> Check:
    usual, count = Counter(digests).most_common(1)[0]
    others = [str(rank) for rank, digest in enumerate(digests) if digest != usual]
    if not others:
        return Check(name, "ok", f"{fact}, on all {len(digests)} rank(s)")
    if count == 1:
        return Check(name, "fail", "differs on every rank")
    ranks = f"rank{'s' if len(others) > 1 else ''} {', '.join(others)}"
    return Check(name, "fail", f"{ranks} {'differ' if len(others) > 1 else 'differs'} from the other {count}")


def environment_facts(config: Config) -> dict[str, str]:
    """What must be the same on all ranks before anything is built."""
    recipe = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
    versions = {"passl_simsiam": __version__, "paddle": paddle.__version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return {"recipe": recipe, "versions": ", ".join(f"{name} {number}" for name, number in versions.items())}


def check_network(world: World) -> Check:
    """A timed all-reduce. Raises UserError with hints when it fails."""
    if world.size == 1:
        return Check("network", "ok", "one process")
    tensor = paddle.ones([GRADIENTS], dtype="float32")
    try:
        paddle.distributed.all_reduce(tensor)  # connects what was not connected
        before = time.perf_counter()
        paddle.distributed.all_reduce(tensor)
        wrong = tensor[0].item() != world.size**2
        seconds = time.perf_counter() - before
    except RuntimeError as error:
        raise UserError(f"preflight: the ranks cannot exchange data: {error}; {distributed.HINTS}") from error
    if wrong:
        return Check("network", "fail", "a sum over all ranks is wrong: not all take part, or memory is damaged")
    text = f"all-reduce of {4 * GRADIENTS / 2**20:.0f} MB over {world.size} ranks in {1000 * seconds:.0f} ms"
    return Check("network", "warn" if seconds > SLOW else "ok", text)


def check_disk(folder: Path, checkpoint: int, keep: int) -> Check:
    """Room for the planned checkpoints: those kept, the best, and one that is being written.

    Args:
        checkpoint: bytes of one.
    """
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    owned = sum(path.stat().st_size for path in (folder / io.FOLDER).glob("*/*") if path.is_file())
    planned = (keep + 2) * checkpoint - owned
    text = f"{free / 2**20:,.0f} MB free at {there}, {max(0, planned) / 2**20:,.0f} MB planned "
    text += f"({keep} + 2 checkpoints of {checkpoint / 2**20:,.1f} MB)"
    if free < checkpoint and not owned:
        return Check("disk", "fail", f"{text}: not even one fits")
    return Check("disk", "ok" if free >= planned else "warn", text)


def check_memory(training: Training) -> Check:
    """Room for the batches that the data workers of this machine's ranks put together."""
    split, world = training.session.config.DataLoader.Train, training.session.world
    free = available_memory()
    if free is None or split.loader.num_workers == 0:
        return Check("memory", "ok", "no data workers" if free is not None else "of unknown size")
    transform, dataset = training.data.transform, training.data.dataset
    rows = -(-split.sampler.batch_size // world.size)
    batch = rows * transform.num_views * transform.size**2 * dataset.in_channels
    needed = 3 * batch * distributed.local_size()
    text = f"{free / 2**20:,.0f} MB free, {needed / 2**20:,.0f} MB for 3 batches a rank shared with data workers"
    return Check("memory", "ok" if needed <= free // 2 else "warn" if 2 * needed // 3 <= free // 2 else "fail", text)


def check_batch(config: Config, world: World) -> Check:
    """What one forward pass sees; batch norm needs at least two images."""
    batch, parts = config.DataLoader.Train.sampler.batch_size, world.size * config.Global.accumulate_steps
    text = f"{batch} = {world.size} rank(s) x {config.Global.accumulate_steps} part(s) x {batch / parts:g} images"
    if batch % world.size:
        return Check("batch", "fail", f"{batch} cannot be shared equally by {world.size} ranks")
    return Check("batch", "warn" if batch % parts or batch // parts < 2 else "ok", text)


def check_device(world: World) -> Check:
    """As many GPUs as ranks on this machine, where GPUs are used."""
    device, ranks = str(paddle.get_device()), distributed.local_size()
    if not device.startswith("gpu"):
        return Check("device", "ok", f"{device}, {runtime.usable_cores()} cores for {ranks} rank(s)")
    count = paddle.device.cuda.device_count()
    detail = f"{device} of {count}, for {ranks} rank(s): {paddle.device.cuda.get_device_name()}"
    return Check("device", "ok" if count >= ranks else "fail", detail)


def check_start(session: Session) -> list[Check]:
    """Before anything is built, so that ranks that are not alike do not meet in unlike collectives."""
    return [check_network(session.world), *agree(session.world, environment_facts(session.config))]


def check_training(training: Training) -> list[Check]:
    """What shows once model and data are there."""
    config, world = training.session.config, training.session.world
    checks = agree(
        world, {"training images": f"{len(training.data.dataset)} images, {len(training.data.loader)} steps"}
    )
    checks += [check_device(world), check_batch(config, world), check_memory(training)]
    disk = check_disk(training.session.folder, checkpoint_size(training), config.Global.keep_last)
    return [*checks, disk] if world.is_main else checks


def checkpoint_size(training: Training) -> int:
    """Bytes of weights, buffers and velocity."""
    model: Any = training.learner.model
    tensors = [*model.state_dict().values(), *(p for p in model.parameters() if not p.stop_gradient)]
    return sum(int(np.prod(tensor.shape)) * tensor.element_size() for tensor in tensors)


def require(session: Session, checks: Sequence[Check]) -> None:
    """Log what is not well; go on with what is doubtful. Raises UserError, on all ranks, when a check of any failed."""
    failed = [f"{check.name}: {check.detail}" for check in checks if check.result == "fail"]
    for check in checks:
        if check.result == "warn":
            session.log.warn(f"preflight: {check.name}: {check.detail}")
    anywhere = distributed.total([float(bool(failed))], session.world)[0]
    if anywhere:
        raise UserError("preflight: " + ("; ".join(failed) or f"checks failed on {anywhere:.0f} other rank(s)"))
