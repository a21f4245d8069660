"""What a process counts with. Off unless it was given a book: then every call returns at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from shared.errors import DualfaceError, ErrorCode, WorkOverError
from shared.logs import Log
from shared.metrics import catalogue
from shared.metrics.catalogue import OTHER, Label, Metric


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

    def start_at_zero(self) -> None:
        """Export this stage's counters that alerts ask about: a counter that appears at 1 has not
        grown in Prometheus's eyes."""
        for metric in catalogue.METRICS:
            if metric.zero and not metric.labels:
                self.count(metric, 0)
            elif metric.zero:
                (label,) = metric.labels
                mine = (self.stage,) if label.name == "stage" else label.values
                for value in mine:
                    if value in label.values:
                        self.count(metric, 0, **{label.name: value})

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
    def store(self, operation: str) -> Iterator[None]:
        """Around one operation of the object store, one of `STORE_OPERATIONS`."""
        since = time.monotonic()
        try:
            yield
        except (DualfaceError, OSError) as error:
            code = error.code if isinstance(error, DualfaceError) else None
            missing = isinstance(error, FileNotFoundError) or code is ErrorCode.SOURCE_MISSING
            if not missing and not isinstance(error, WorkOverError):
                self.count(catalogue.STORE_ERRORS, operation=operation)
            raise
        finally:
            self.observe(catalogue.STORE_SECONDS, time.monotonic() - since, operation=operation)

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
