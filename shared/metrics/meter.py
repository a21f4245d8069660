"""What a process counts with. Off unless it was given a book: then every call returns at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from shared.errors import DualfaceError, ErrorCode, WorkOverError
from shared.logs import Log
from shared.metrics import catalogue
from shared.metrics.catalogue import OTHER, Label, Metric

ANSWERS = (ErrorCode.SOURCE_MISSING, ErrorCode.BAD_OPTION, ErrorCode.TOO_LARGE)
"""Of a store that works: about what it was asked."""


class Instrument(Protocol):
    """One series of a metric."""

    def inc(self, amount: float = 1) -> None: ...

    def observe(self, amount: float) -> None: ...

    def set(self, value: float) -> None: ...


class Book(Protocol):
    """Where figures are written down; see `shared/metrics/book.py`."""

    def instrument(self, metric: Metric, labels: tuple[str, ...]) -> Instrument:
        """The series of `metric` with these values of its labels. Raises OSError without space."""


class Meter:
    """Counts for one process and its forks; `stage` is what it does. Thread-safe.

    Never raises for want of space: then it says so once and counts no more.
    """

    def __init__(self, stage: str = "", book: Book | None = None) -> None:
        self.stage = stage
        self._book = book
        self._series: dict[tuple[str, tuple[str, ...]], Instrument] = {}
        self._known: dict[tuple[str, str], set[str]] = {}
        self._since = time.monotonic()
        self._waited_s = 0.0

    @property
    def on(self) -> bool:
        """False when nothing is counted, so that a figure need not be worked out."""
        return self._book is not None

    def count(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter. Raises ValueError for labels that are not the metric's."""
        self._do("counter", metric, amount, labels)

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        """One more value of a histogram."""
        self._do("histogram", metric, value, labels)

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """What a gauge shows until the next call, or until this process ends."""
        self._do("gauge", metric, value, labels)

    def forget(self, metric: Metric, /, **labels: str) -> None:
        """A gauge of what is not there any more is told no longer, until it is set again; values
        of its labels that nothing else is told with are free for others. What is kept of it in
        the file, some hundred bytes, goes with the process."""
        values = tuple(labels.get(name, "") for name in metric.label_names)
        if (metric.name, values) not in self._series:
            return  # it was told as one too many, together with others
        self.set(metric, math.nan, **labels)
        self._series.pop((metric.name, values), None)
        left = [each for name, each in list(self._series) if name == metric.name]
        for at, name in enumerate(metric.label_names):
            if all(each[at] != values[at] for each in left):
                self._known.get((metric.name, name), set()).discard(values[at])

    def start_at_zero(self) -> None:
        """Export as 0 what this stage counts: a counter that appears at 1 has not grown in
        Prometheus's eyes."""
        for metric in catalogue.METRICS:
            for labels in metric.zeros(self.stage):
                self.count(metric, 0, **labels)

    # --- the time that a stage takes ------------------------------------------------------------

    def begin(self) -> None:
        """A task begins: from here on the time counts for its (first) batch."""
        self._since, self._waited_s = time.monotonic(), 0.0

    def waited(self, thing: str, seconds: float) -> None:
        """`seconds` went by waiting for a unit of `thing` (as leases name it)."""
        self._waited_s += seconds
        self.observe(catalogue.LEASE_WAIT, seconds, kind=kind_of(thing))

    def batch_done(self, stage: str, frames: int) -> None:
        """The stage is through with a batch: the time since `begin`, or since the batch before,
        less what was spent waiting."""
        now = time.monotonic()
        seconds = max(0.0, now - self._since - self._waited_s)
        self._since, self._waited_s = now, 0.0
        self.observe(catalogue.STAGE_BATCH, seconds, stage=stage)
        self.observe(catalogue.STAGE_FRAME, seconds / frames, stage=stage)
        self.count(catalogue.FRAMES, frames, stage=stage)

    def batch_stored(self, frames: int, decoded_ns: int) -> None:
        """A batch that was decoded at `decoded_ns` (CLOCK_MONOTONIC of this host; 0: unknown) is
        stored as a chunk."""
        self.batch_done("encode", frames)
        if decoded_ns:
            seconds = max(0.0, (time.monotonic_ns() - decoded_ns) / 1e9)
            self.observe(catalogue.PIPELINE_BATCH, seconds)
            self.observe(catalogue.PIPELINE_FRAME, seconds / frames)

    @contextmanager
    def store(
        self,
        operation: str,
        waited_s: Callable[[], float] = lambda: 0.0,
        others: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Around one operation of the object store, one of `STORE_OPERATIONS`. `waited_s`: how
        much of it went by waiting for its caller; `others`: whether an error is its caller's."""
        since = time.monotonic()
        try:
            yield
        except (DualfaceError, OSError) as error:
            code = error.code if isinstance(error, DualfaceError) else None
            told = isinstance(error, FileNotFoundError | WorkOverError) or code in ANSWERS
            if not told and not others():
                self.count(catalogue.STORE_ERRORS, operation=operation)
            raise
        finally:
            seconds = max(0.0, time.monotonic() - since - waited_s())
            self.observe(catalogue.STORE_SECONDS, seconds, operation=operation)

    def _do(self, kind: str, metric: Metric, value: float, labels: dict[str, str]) -> None:
        if self._book is None:
            return
        try:
            series = self._find(self._book, kind, metric, labels)
            if kind == "counter":
                series.inc(value)
            elif kind == "histogram":
                series.observe(value)
            else:
                series.set(value)
        except OSError as error:
            self._book = None
            Log(stage=self.stage).warning("metrics are off", reason=str(error))

    def _find(self, book: Book, kind: str, metric: Metric, labels: dict[str, str]) -> Instrument:
        values = tuple(labels.get(name, "") for name in metric.label_names)
        series = self._series.get((metric.name, values))
        if series is None:
            if set(labels) != set(metric.label_names) or kind != metric.kind:
                raise ValueError(f"{metric.name} is a {metric.kind} of {metric.label_names}")
            bounded = tuple(
                self._bounded(metric.name, label, labels[label.name]) for label in metric.labels
            )
            series = book.instrument(metric, bounded)
            if bounded == values:  # else what is kept here would grow without bound
                self._series[metric.name, values] = series
        return series

    def _bounded(self, metric: str, label: Label, value: str) -> str:
        if label.values:
            return value if value in label.values else OTHER
        known = self._known.setdefault((metric, label.name), set())
        if value not in known and len(known) >= label.most:
            return OTHER
        known.add(value)
        return value


def kind_of(thing: str) -> str:
    """Which kind of limited thing `thing` is a case of: "slots:cpu0:decoded" is of "decoded"."""
    parts = thing.split(":")
    return next((kind for kind in catalogue.KINDS_OF_LEASES if kind in parts), OTHER)
