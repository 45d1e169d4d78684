"""A download that survives cut connections and goes on where an earlier one stopped."""

from __future__ import annotations

import contextlib
import email.message
import fcntl
import http.client
import json
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from passl_simsiam import __version__
from passl_simsiam.errors import UserError

BLOCK = 1 << 18
TRIES = 5  # in a row without a byte of progress
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)

Report = Callable[[int, "int | None"], None]


class _CutOff(Exception):
    """The connection failed in a way that another try may mend."""


def fetch(
    url: str,
    part: Path,
    *,
    size: int | None = None,
    report: Report = lambda done, total: None,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Bring the whole of `url` into the file `part`, which may hold the beginning of it from an earlier call.

    Bytes are added to what is there only where the server confirms, by the ETag or date that came with them, that it
    is still the same file. Proxies are taken from the environment (http_proxy, https_proxy, no_proxy).

    Args:
        size: of the whole, in bytes, where it is known.
        report: called with the bytes that are there and their number in all, where the server says it.
        pause: seconds before the second try, doubled for each further one.
        timeout: seconds without a byte after which a connection counts as cut.

    Raises:
        UserError: one line; what has arrived stays in `part`, unless it cannot be of use.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as file:
        failures, before = 0, _length(file)
        while True:
            try:
                _attempt(url, file, part.with_name(part.name + ".json"), size, report, timeout)
                return
            except _CutOff as error:
                failures = 1 if _length(file) > before else failures + 1
                before = _length(file)
                if failures >= TRIES:
                    kept = f"; {before:,} bytes are kept, the same command goes on from there" if before else ""
                    raise UserError(f"{url} could not be downloaded: {error} ({TRIES} tries){kept}") from error
                time.sleep(pause * 2 ** (failures - 1))
            except OSError as error:
                raise UserError(f"{part} could not be written: {error.strerror or error}") from error


def _attempt(url: str, file: BinaryIO, note: Path, size: int | None, report: Report, timeout: float) -> None:
    """One request, for what is missing. Raises _CutOff and UserError; OSError is the disk's."""
    have, validator = _length(file), _validator(note, url)
    headers = {"User-Agent": f"passl_simsiam/{__version__}", "Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    response = _open(urllib.request.Request(url, headers=headers), have, timeout)
    if response is None:  # nothing is missing
        _check_size(url, size, have)
        return
    with response:
        whole = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status != 206:
            have = 0  # another file than the one begun, or a server that sends whole files only
        elif whole is None or int(whole[1]) != have:
            file.truncate(0)
            raise _CutOff("the server sent another part than the one asked for")
        file.truncate(have)
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        _check(url, response.headers, size, total)
        _check_space(note.parent, (total or size or 0) - have)
        note.write_text(json.dumps({"url": url, "validator": _validator_of(response.headers)}), encoding="utf-8")
        limit = total or size
        report(have, limit)
        while block := _read(response):
            file.write(block)
            have += len(block)
            if limit is not None and have > limit:
                file.truncate(0)
                raise UserError(f"{url} sends more than the {limit:,} bytes that it should have")
            report(have, limit)
        file.flush()
    if limit is not None and have < limit:
        raise _CutOff(f"the connection was closed after {have:,} of {limit:,} bytes")


def _open(request: urllib.request.Request, have: int, timeout: float) -> http.client.HTTPResponse | None:
    """The server's answer, or None if it says that the `have` bytes are all."""
    try:
        # A new opener each time: it reads the proxies from the environment.
        return urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return None
        if error.code in TRANSIENT or error.code == 416:
            raise _CutOff(f"HTTP {error.code} {error.reason}") from error
        raise UserError(f"{request.full_url} could not be downloaded: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _CutOff(_reason(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutOff(_reason(error)) from error


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _CutOff(_reason(error)) from error


def _reason(error: object) -> str:
    if isinstance(error, socket.gaierror):
        return "its host name cannot be resolved: no network here, or only through a proxy (https_proxy is not set?)"
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _check(url: str, headers: email.message.Message, size: int | None, total: int | None) -> None:
    """Raise UserError for an answer that cannot be the file."""
    if headers.get_content_type() == "text/html":
        raise UserError(f"{url} gives a web page in place of the file (a login page of this network?)")
    if total is not None:
        _check_size(url, size, total)


def _check_size(url: str, size: int | None, total: int) -> None:
    if size is not None and size != total:
        raise UserError(f"{url} has {total:,} bytes, but should have {size:,}: it is not the file that was published")


def _check_space(folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise UserError(f"{folder} has {free / 1e6:,.0f} MB free, and {missing / 1e6:,.0f} MB are still to come")


def _validator_of(headers: email.message.Message) -> str | None:
    """What tells one version of the file from another: a strong ETag, else its date."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _validator(note: Path, url: str) -> str | None:
    """The validator that came with the bytes in the partial file, None if they are of no use."""
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        return known["validator"] if known["url"] == url and isinstance(known["validator"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _length(file: BinaryIO) -> int:
    return file.seek(0, 2)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The partial file, open for appending, for this process alone. Raises UserError when another one has it."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{part} is being downloaded by another process") from error
        yield file
