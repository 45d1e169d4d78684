"""From a folder of images to tar shards (see `datasets.shards`): resumable, verified, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from passl_simsiam.data.bad import BadSample
from passl_simsiam.data.datasets.files import ImageFiles
from passl_simsiam.data.datasets.shards import CLASSES, Shards
from passl_simsiam.data.decode import BadImage
from passl_simsiam.data.manifest import Manifest, Packed, sha256
from passl_simsiam.data.sampler import epoch_order
from passl_simsiam.data.transforms import geometry
from passl_simsiam.errors import UserError

log = logging.getLogger(__name__)


def pack(
    dataset: ImageFiles,
    target: Path,
    *,
    shard_size: int = 1000,
    short_side: int | None = None,
    quality: int = 95,
    threads: int | None = None,
    console: Console | None = None,
) -> Packed:
    """Write the images of `dataset` to `target`/shard-000000.tar and so on, with their labels.

    The order is shuffled once, so that readers which only shuffle a little see no class after the other. Files are
    copied as they are unless `short_side` makes them smaller. Each image is decoded on the way, and one that cannot be
    is left out. Each shard is read back and compared before it gets its name. Called again after an interruption,
    `pack` checks the finished shards against the manifest and goes on.

    Args:
        target: a folder, new, or of an interrupted packing of the same images with the same settings.
        shard_size: images of a shard.
        short_side: images whose shorter side has more pixels are shrunk to it and encoded again as JPEG.
        quality: of that JPEG, 1 to 100.
        threads: that work on a shard each; by default one a core.
        console: for the progress bar.

    Raises:
        UserError: for bad settings, a target with something else in it, no images left, or a full disk.
    """
    if shard_size < 1 or (short_side is not None and short_side < 1) or not 1 <= quality <= 100:
        raise UserError(f"pack: shard_size {shard_size}, short_side {short_side} or quality {quality} is out of range")
    plan = {"images": len(dataset), "paths": _digest(dataset), "shard_size": shard_size} | (
        {} if short_side is None else {"short_side": short_side, "quality": quality}
    )
    work = _Work(dataset, target, shard_size, short_side, quality)
    try:
        manifest = Manifest(target, plan)
        if dataset.classes is not None:
            (target / CLASSES).write_text("".join(f"{name}\n" for name in dataset.classes), encoding="utf-8")
        with _progress(console) as progress:
            task = progress.add_task("packing", total=len(dataset))
            work.advance = lambda count: progress.advance(task, count)
            _run(work, manifest, threads or os.cpu_count() or 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"pack: {reason} in {str(target)!r}; run it again to go on from here") from error
    packed = sum(manifest.done.values(), Packed())
    if not packed.samples:
        raise UserError(f"pack: none of the {len(dataset)} images can be read; the first is {dataset.name(0)}")
    if len(Shards(str(target))) != packed.samples:
        raise UserError(f"pack: {str(target)!r} holds other shards than those of its manifest; pack to an empty folder")
    return packed


def _run(work: _Work, manifest: Manifest, threads: int) -> None:
    """Pack all the shards that are not there yet; at the first error, or when interrupted, stop all the threads."""

    def one(number: int) -> None:
        name = f"shard-{number:06d}.tar"
        try:
            if work.stop.is_set():
                return
            if manifest.holds(name):
                work.advance(manifest.done[name].samples + len(manifest.done[name].bad))
            else:
                manifest.add(name, *work.shard(number, name))
        except _Stopped:
            return
        except BaseException:
            work.stop.set()
            raise

    with ThreadPoolExecutor(threads) as executor:
        try:
            futures = [executor.submit(one, number) for number in range(work.shards)]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done():
                    future.result()
        finally:
            work.stop.set()
            executor.shutdown(cancel_futures=True)


class _Stopped(Exception):
    """Another thread has failed."""


class _Work:
    """Makes shards."""

    def __init__(
        self, dataset: ImageFiles, target: Path, shard_size: int, short_side: int | None, quality: int
    ) -> None:
        self.dataset, self.target, self.shard_size = dataset, target, shard_size
        self.short_side, self.quality = short_side, quality
        self.order = epoch_order(len(dataset), seed=0, epoch=0, shuffle=True)
        self.shards = -(-len(dataset) // shard_size)
        self.stop = threading.Event()
        self.advance: Callable[[int], None] = lambda count: None

    def shard(self, number: int, name: str) -> tuple[Packed, str]:
        """Write one shard, read it back, and only then give it its name. Returns also its SHA-256."""
        aside = self.target / f".{name}.part"
        bad: list[BadSample] = []
        sums: dict[str, int] = {}
        with aside.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for member, data in self._members(number, bad):
                    header = tarfile.TarInfo(member)
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
                    sums[member] = zlib.crc32(data)
            file.flush()
            os.fsync(file.fileno())
        if _checksums(aside) != sums:
            raise UserError(f"pack: {str(aside)!r} does not read back as it was written: check this disk")
        digest = sha256(aside)
        packed = Packed(sum(not member.endswith(".cls") for member in sums), aside.stat().st_size, bad)
        aside.replace(self.target / name)
        return packed, digest

    def _members(self, number: int, bad: list[BadSample]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of the members of shard `number`; images that cannot be read go to `bad`."""
        start = number * self.shard_size
        for position, index in enumerate(self.order[start : start + self.shard_size].tolist(), start):
            if self.stop.is_set():
                raise _Stopped
            self.advance(1)
            name = self.dataset.name(index)
            try:
                data, extension = self._image(index)
            except BadImage as error:
                log.warning("left out: %s", error)
                bad.append(BadSample(index, name, error.reason))
                continue
            # A sample's key ends at the first dot, so only the last one of the original path may stay.
            readable = re.sub(r"[^A-Za-z0-9-]+", "_", os.path.splitext(self.dataset.paths[index])[0])  # noqa: PTH122
            key = f"{position:08d}_{readable[-80:]}"
            yield f"{key}.{extension}", data
            if self.dataset.labels is not None:
                yield f"{key}.cls", str(int(self.dataset.labels[index])).encode()

    def _image(self, index: int) -> tuple[bytes, str]:
        """The file of an image, as it is or made smaller, and its suffix. Raises BadImage."""
        data = self.dataset.encoded(index)
        image = self.dataset.decoded(data, index)
        extension = self.dataset.name(index).rpartition(".")[2].lower()
        if self.short_side is None or min(image.shape[:2]) <= self.short_side or extension == "npy":
            return data, extension
        small = geometry.resize_shorter_side(image, self.short_side)
        if small.shape[2] == 3:
            small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes(), "jpg"


def _digest(dataset: ImageFiles) -> str:
    """Tells one list of images and labels from another."""
    digest = hashlib.sha256()
    for part in dataset.paths.fingerprint():
        digest.update(part)
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    return digest.hexdigest()[:16]


def _checksums(shard: Path) -> dict[str, int]:
    with tarfile.open(shard, "r:") as tar:
        return {member.name: zlib.crc32(tar.extractfile(member).read()) for member in tar}  # type: ignore[union-attr]


def _progress(console: Console | None) -> Progress:
    text, times = TextColumn("{task.description}"), (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(text, BarColumn(), MofNCompleteColumn(), *times, console=console or Console(stderr=True))
