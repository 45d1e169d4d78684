"""Published weights on this machine: fetched once, checked on each use."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

from passl_simsiam.checkpoint import safe
from passl_simsiam.checkpoint.durable import digest, replacing, write_json
from passl_simsiam.checkpoint.weights import locate
from passl_simsiam.errors import UserError
from passl_simsiam.zoo.http import Report, fetch
from passl_simsiam.zoo.manifest import Entry, catalog, entry_of

CACHE = "PASSL_SIMSIAM_CACHE"


def cache_folder() -> Path:
    """Where downloads lie: $PASSL_SIMSIAM_CACHE, by default ~/.cache/passl_simsiam."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache/passl_simsiam")


def place_of(name: str) -> Path:
    """The file that the entry `name` is kept in, whether it is there or not. Raises UserError for an unknown name."""
    return cache_folder() / name / entry_of(name).file


def resolve(path_or_name: str | Path) -> Path:
    """A path to weights: an existing one as it is (its suffix added where it lacks), or that of a downloaded entry.

    Nothing is downloaded here: jobs on nodes without a network, or on many at once, should not find out this way.

    Raises:
        UserError: there is no such path and no such entry, it was not downloaded yet, or its file has changed since.
    """
    try:
        return locate(path_or_name)
    except UserError as error:
        name = str(path_or_name)
        if name not in catalog():
            if os.sep in name or Path(name).suffix:
                raise
            raise UserError(f"{error}; nor does the zoo have {name!r} (passl-download --list)") from error
    path = place_of(name)
    if not path.is_file():
        raise UserError(f"the weights {name!r} are not on this machine; fetch them by `passl-download {name}`")
    check(path, entry_of(name))
    return path


def download(name: str, report: Report = lambda done, total: None, pause: float = 1.0) -> Path:
    """Fetch the entry `name` unless it is there, and check it. Returns the file.

    Args:
        report, pause: see `fetch`.

    Raises:
        UserError: see `fetch` and `check`. A file that fails the check is not kept.
    """
    entry, path = entry_of(name), place_of(name)
    if not path.is_file():
        part = path.with_name(path.name + ".part")
        try:
            fetch(entry.url, part, size=entry.size, report=report, pause=pause)
        except UserError as error:
            raise UserError(f"{error}; or fetch it elsewhere and put it at {path}") from error
        except OSError as error:
            raise UserError(f"{part} cannot be written: {error.strerror}; {CACHE} may name another folder") from error
        try:
            safe.read(part)  # what is no weight file at all must not become the one to trust
            check(part, entry, record_of(path))
        except UserError:
            part.unlink()
            raise
        part.replace(path)
        part.with_name(part.name + ".json").unlink(missing_ok=True)
    check(path, entry)
    return path


def check(path: Path, entry: Entry, record: Path | None = None) -> str:
    """Compare a file with what was published of it and with what first arrived here; its SHA-256.

    Where no complete checksum is published, the first file is trusted: `record` keeps its SHA-256, and everything later
    must have it too.

    Raises:
        UserError: it is another file.
    """
    record, size, sha256 = record or record_of(path), path.stat().st_size, digest(path)
    if entry.size is not None and size != entry.size:
        raise UserError(f"{path} has {size:,} bytes, but {entry.size:,} were published: remove it and fetch it anew")
    if entry.sha256 and not sha256.startswith(entry.sha256):
        raise UserError(f"{path} is not the published file: its sha256 is {sha256}, not {entry.sha256}")
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if known.get("sha256", sha256) != sha256:
        raise UserError(
            f"{path} is another file than the one that was first fetched ({known.get('when')}): its sha256 is "
            f"{sha256}, not {known['sha256']}; remove {record} if you trust the new one"
        )
    if not known:
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with replacing(record) as aside:
            write_json(aside, {"url": entry.url, "size": size, "sha256": sha256, "when": when})
    return sha256


def record_of(path: Path) -> Path:
    """The file that keeps the checksum of what first arrived at `path`."""
    return path.with_name(path.name + ".first.json")
