"""Structured logs: one JSON object per line on standard error.

The standard library with a formatter: structlog's import costs every worker a quarter of a second.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

Value = str | int | float | bool | None

_AROUND: ContextVar[Mapping[str, Value]] = ContextVar("around")
"""What this thread works on just now; a thread that it starts does not inherit it."""


@contextmanager
def working_on(**fields: Value) -> Iterator[None]:
    """Add fields to every line that this thread logs meanwhile, whoever writes it."""
    token = _AROUND.set({**_AROUND.get({}), **fields})
    try:
        yield
    finally:
        _AROUND.reset(token)


class Log:
    """Says what happened, with fields; `bind` adds fields to all that is said later."""

    def __init__(self, **fields: Value) -> None:
        self._fields = fields
        self._logger = logging.getLogger("dualface")

    def bind(self, **fields: Value) -> Log:
        """A log with more fields."""
        return Log(**{**self._fields, **fields})

    def info(self, event: str, **fields: Value) -> None:
        """Something that operators may want to know."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Value) -> None:
        """Something that was mended."""
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Value) -> None:
        """Something that a job or the stack could not get over."""
        self._say(logging.ERROR, event, fields)

    def exception(self, event: str, error: Exception | None = None, **fields: Value) -> None:
        """As `error`, with the traceback of `error`, or of the exception being handled."""
        self._logger.error(
            event, exc_info=error or True, extra={"fields": {**self._fields, **fields}}
        )

    def _say(self, level: int, event: str, fields: dict[str, Value]) -> None:
        self._logger.log(level, event, extra={"fields": {**self._fields, **fields}})


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **_AROUND.get({}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logs(level: str) -> None:
    """Once per process, at its start. `level`: of our own lines; libraries speak from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    names = logging.getLevelNamesMapping()
    logging.getLogger("dualface").setLevel(names.get(level.upper(), logging.INFO))
