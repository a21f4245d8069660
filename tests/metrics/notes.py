"""A book that keeps what was written into it, for tests of who counts what."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from shared.metrics.catalogue import Metric
from shared.metrics.meter import Instrument

Key = tuple[str, tuple[str, ...]]


@dataclass
class Notes:
    """Counters' sums, gauges' values, histograms' observations, by metric and label values."""

    sums: dict[Key, float] = field(default_factory=lambda: defaultdict(float))
    values: dict[Key, float] = field(default_factory=dict)
    seen: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))

    def instrument(self, metric: Metric, labels: tuple[str, ...]) -> Instrument:
        """See `Book`."""
        return _Note(self, (metric.name, labels))

    def sum(self, metric: Metric, *labels: str) -> float:
        """What a counter has come to; 0 when it was not counted."""
        return self.sums.get((metric.name, labels), 0.0)

    def value(self, metric: Metric, *labels: str) -> float | None:
        """What a gauge shows."""
        return self.values.get((metric.name, labels))

    def observed(self, metric: Metric, *labels: str) -> list[float]:
        """All values of a histogram."""
        return self.seen.get((metric.name, labels), [])


@dataclass(frozen=True)
class _Note:
    notes: Notes
    key: Key

    def inc(self, amount: float = 1) -> None:
        self.notes.sums[self.key] += amount

    def observe(self, amount: float) -> None:
        self.notes.seen[self.key].append(amount)

    def set(self, value: float) -> None:
        self.notes.values[self.key] = value
