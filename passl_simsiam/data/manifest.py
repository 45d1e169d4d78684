"""What a folder of shards holds, and which of its shards are finished."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from passl_simsiam.data.bad import BadSample
from passl_simsiam.errors import UserError

log = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Packed:
    """What is in one shard, or, summed up, in all of them.

    Attributes:
        samples: images.
        bytes: size of the tar file.
        bad: the images left out, which cannot be read.
    """

    samples: int = 0
    bytes: int = 0
    bad: list[BadSample] = field(default_factory=list)

    def __add__(self, other: Packed) -> Packed:
        return Packed(self.samples + other.samples, self.bytes + other.bytes, self.bad + other.bad)


class Manifest:
    """`manifest.jsonl` of a folder of shards: the settings in its first line, then a line for each finished shard.

    Args:
        target: the folder; made if it is not there.
        plan: the settings.

    Raises:
        UserError: when the folder was begun with other settings, or holds tar files without a manifest.
    """

    def __init__(self, target: Path, plan: dict[str, Any]) -> None:
        self.target, self.file = target, target / MANIFEST
        self.done: dict[str, Packed] = {}
        self._digests: dict[str, str] = {}
        self._lock = threading.Lock()
        target.mkdir(parents=True, exist_ok=True)
        if not self.file.exists():
            if any(target.glob("*.tar")):
                raise UserError(f"pack: {str(target)!r} already holds tar files; pack to an empty folder")
            self._write(plan)
            return
        lines = list(self._lines())
        self._write(*lines, afresh=True)
        if not lines or lines[0] != plan:
            settings = lines[0] if lines else "unknown settings"
            raise UserError(f"pack: {str(target)!r} was begun with {settings}, not {plan}; pack to an empty folder")
        for line in lines[1:]:
            bad = [BadSample(**sample) for sample in line["bad"]]
            self.done[line["shard"]] = Packed(line["samples"], line["bytes"], bad)
            self._digests[line["shard"]] = line["sha256"]

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return  # an interruption cut the last line: its shard is made again

    def holds(self, name: str) -> bool:
        """Whether shard `name` was finished before, and its bytes are still those."""
        if name not in self.done:
            return False
        file = self.target / name
        if file.exists() and sha256(file) == self._digests[name]:
            return True
        log.warning("%s is not as it was packed: packing it again", file)
        return False

    def add(self, name: str, packed: Packed, digest: str) -> None:
        with self._lock:
            self.done[name] = packed
            self._write({"shard": name, "sha256": digest, **asdict(packed)})

    def _write(self, *records: dict[str, Any], afresh: bool = False) -> None:
        """Append records, or, without a line that an interruption cut, write all of them again."""
        path = self.file.with_suffix(".part") if afresh else self.file
        with path.open("w" if afresh else "a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        path.replace(self.file)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
