"""The one writer that commands and the training loop talk to."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from rich.console import Console

from passl_simsiam.errors import UserError
from passl_simsiam.log.events import EventFile
from passl_simsiam.log.files import AppendFile, MetricsFiles, plain
from passl_simsiam.log.progress import Progress


class RunLog:
    """Console, log.txt, metrics.jsonl, metrics.csv and VisualDL (vdl/) of one run.

    On a terminal the console is rich's, elsewhere plain lines. A file that cannot be written (a full disk) is reported
    once and does not end the run. Ranks other than 0 write nothing.

    Args:
        output_dir: the run's folder, created if absent; None logs to the console only.
        rank: this process's rank.
        resume_step: the step of the checkpoint that the run goes on from. Records of later steps, which the run is
            about to make again, are dropped from every file, and the same curves go on. None is a new run: its metrics
            replace those of an earlier run in the folder; log.txt is always appended to.
        visualdl: write vdl/ too.
        stream: where the console's lines go, stdout by default.

    Raises:
        UserError: `output_dir` cannot be written.
    """

    def __init__(
        self,
        output_dir: str | Path | None,
        *,
        rank: int = 0,
        resume_step: int | None = None,
        visualdl: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
        self._console = console if rank == 0 and console.is_terminal else None
        self._silent = rank != 0
        self._failed: set[str] = set()
        self._text: AppendFile | None = None
        self._metrics: MetricsFiles | None = None
        self._events: EventFile | None = None
        if output_dir is None or self._silent:
            return
        folder = Path(output_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = folder / "log.txt"
            self._text = AppendFile(text, keep=text.stat().st_size if text.exists() else 0)
            self._metrics = MetricsFiles(folder, resume_step)
        except OSError as error:
            raise UserError(f"Global.output_dir: cannot write in {str(folder)!r}: {error.strerror}") from error
        if visualdl:
            try:
                self._events = EventFile(folder / "vdl", resume_step)
            except (ImportError, OSError) as error:
                self.warn(f"no VisualDL record of this run: {error}")

    def info(self, text: str) -> None:
        """Say `text` on the console and in log.txt."""
        self._say(text)
        self._write_text(text)

    def warn(self, text: str) -> None:
        """Like `info`, marked as a warning."""
        self._say(f"warning: {text}", style="yellow")
        self._write_text(f"WARNING {text}")

    def note(self, text: str) -> None:
        """Write `text` into log.txt only: the console has it from elsewhere."""
        self._write_text(text)

    def record(self, values: Mapping[str, Any]) -> None:
        """Add one record to metrics.jsonl and metrics.csv, and its numbers as scalars to VisualDL.

        Args:
            values: `step` (int, required), `epoch`, and any of "train/loss", "eval/knn_top1", ...: Python or numpy
                numbers or strings. Accuracies are fractions of 1. NaN and infinities become null, and are left out of
                VisualDL.
        """
        record = {key: plain(value) for key, value in values.items()}
        step = int(record["step"])
        if self._metrics is not None:
            self._safely("metrics.jsonl", self._metrics.append, record)
        for key, value in record.items():
            if key not in ("step", "epoch") and isinstance(value, (int, float)):
                self._event("scalar", key, value, step)

    def image(self, tag: str, image: np.ndarray[Any, Any], step: int) -> None:
        """Show a uint8 image [H, W, C] (RGB or grey) in VisualDL."""
        self._event("image", tag, image, step)

    def histogram(self, tag: str, values: Any, step: int) -> None:
        """Show the histogram of `values` (array-like of any shape) in VisualDL."""
        self._event("histogram", tag, values, step)

    def text(self, tag: str, text: str, step: int) -> None:
        """Show `text` in VisualDL, whose page joins its lines (the tooltip keeps them) and reads no Markdown."""
        self._event("text", tag, text, step)

    def embeddings(self, tag: str, rows: np.ndarray[Any, Any], labels: Sequence[str], step: int) -> None:
        """Show points, float [n, d] with a label each, on VisualDL's page High Dimensional."""
        if self._events is not None:
            self._safely("the VisualDL file", self._events.embeddings, tag, rows, labels, step)

    def progress(self, total: int, *, start: int = 0, label: str = "") -> Progress:
        """A live bar on a terminal, plain lines elsewhere; log.txt has the lines in both cases.

        See Progress for `total`, `start`, `label` and what to call.
        """
        say = self._write_text if self._console is not None else self.info
        return Progress(total, start=start, label=label, console=self._console, say=say)

    def close(self) -> None:
        for file in (self._text, self._metrics, self._events):
            if file is not None:
                file.close()
        self._text = self._metrics = self._events = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _event(self, kind: str, tag: str, value: Any, step: int) -> None:
        if self._events is not None:
            self._safely("the VisualDL file", getattr(self._events, kind), tag, value, step)

    def _write_text(self, text: str) -> None:
        if self._text is not None:
            now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            self._safely("log.txt", self._text.append, f"{now} {text}\n".encode())

    def _safely(self, what: str, write: Callable[..., None], *arguments: Any) -> None:
        """Write; a failure is said once for each file, and the next record is tried again."""
        try:
            write(*arguments)
        except OSError as error:
            if what not in self._failed:
                self._failed.add(what)
                self._say(f"warning: cannot write {what} ({error.strerror}); the run goes on", style="yellow")

    def _say(self, text: str, style: str | None = None) -> None:
        if self._silent:
            return
        with contextlib.suppress(OSError):  # a full disk or a closed pipe behind stdout
            if self._console is not None:
                self._console.print(text, style=style)
            else:
                print(text, file=self._stream, flush=True)
