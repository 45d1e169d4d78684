"""What the package's modules say through Python's `logging`, in the run's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from passl_simsiam.log.runlog import RunLog

PACKAGE = __name__.partition(".")[0]


class _ToRunLog(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        (self._log.warn if record.levelno >= logging.WARNING else self._log.info)(record.getMessage())


@contextmanager
def messages_into(log: RunLog) -> Iterator[None]:
    """While open, messages of the package's loggers go into `log` and, lest they show twice, nowhere else."""
    logger, handler = logging.getLogger(PACKAGE), _ToRunLog(log)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
