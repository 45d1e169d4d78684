"""The plain files of a run: a file that grows by whole records, metrics.jsonl, and metrics.csv."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class AppendFile:
    """A file that grows by whole records only.

    A write that fails half-way (a full disk) is taken back before the OSError is raised, so that no reader and no later
    record ever meets half a record.

    Args:
        path: created if absent.
        keep: bytes at its start to keep; the rest is cut off.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        if path.exists() and keep < path.stat().st_size:
            _cut(path, keep)
        self._file = path.open("ab", buffering=0)

    def append(self, record: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END)
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise

    def close(self) -> None:
        self._file.close()


class MetricsFiles:
    """metrics.jsonl, one JSON object a line, and metrics.csv, the same as a table for spreadsheets.

    Args:
        folder: the run's folder.
        resume_step: records of later steps are dropped; None starts both files anew.
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        self._path = folder / "metrics.jsonl"
        self._table = folder / "metrics.csv"
        self._jsonl = AppendFile(self._path, keep=_kept_length(self._path, resume_step))
        self._columns: list[str] = []
        self._csv = self._write_table()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record of plain, finite values. Raises OSError."""
        self._jsonl.append(json.dumps(record, allow_nan=False).encode() + b"\n")
        if set(record) <= set(self._columns):
            self._csv.append(_csv_row(record.get(column) for column in self._columns))
        else:
            self._csv.close()
            self._csv = self._write_table()

    def _write_table(self) -> AppendFile:
        """The whole table from the jsonl file, with a column for each key met so far; written aside, then renamed."""
        records = read_metrics(self._path)
        self._columns = list(dict.fromkeys(key for record in records for key in record))
        aside = self._table.with_suffix(".csv.part")
        table = AppendFile(aside)
        if self._columns:
            table.append(_csv_row(self._columns))
        table.append(b"".join(_csv_row(record.get(column) for column in self._columns) for record in records))
        aside.replace(self._table)
        return table

    def close(self) -> None:
        self._jsonl.close()
        self._csv.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl file, in order. A last line cut short by a killed process is left out.

    Raises:
        OSError: the file cannot be read.
    """
    return [record for _, record in _whole_lines(Path(path))]


def plain(value: Any) -> Any:
    """`value` as JSON holds it: numpy scalars become Python's, NaN and infinities null."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut(path: Path, keep: int) -> None:
    """Make the first `keep` bytes a new file in the place of the old one.

    Truncated in place, the file would grow again past where a program that shows the run (a VisualDL server) stopped
    reading, and that program would go on in the middle of a record.
    """
    aside = path.with_name("unfinished")
    with path.open("rb") as whole, aside.open("wb") as part:
        while keep and (piece := whole.read(min(keep, 2**20))):
            keep -= part.write(piece)
    aside.replace(path)


def _whole_lines(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    """Each whole record with the offset of its end, up to the first that is damaged."""
    end = 0
    with path.open("rb") as lines:
        for line in lines:
            end += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(record, dict):
                return
            yield end, record


def _kept_length(path: Path, resume_step: int | None) -> int:
    """Bytes up to the first record after `resume_step`."""
    kept = 0
    if resume_step is not None and path.exists():
        for end, record in _whole_lines(path):
            if record.get("step", 0) > resume_step:
                break
            kept = end
    return kept


def _csv_row(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["" if value is None else value for value in values])
    return text.getvalue().encode()
