"""Lock files and books of clients, and what follows from them alone."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import time
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

from shared.leases import Lease

SAMPLE = 1000


class Kind(IntEnum):
    """What a client writes down."""

    ASKED = 0
    HAS = 1
    HAS_NOT = 2  # from now on
    CONFLICT = 3  # somebody else has the unit's lock file
    LOST = 4  # told that the lease is not its own, though it was in time
    UNANSWERED = 5
    CRASHED = 6


@dataclass(frozen=True)
class Record:
    """One line of a client's book. `life` counts the processes that ran, `time_ns` is monotonic."""

    kind: Kind
    unit: int
    client: int
    life: int
    token: int
    time_ns: int


LAYOUT = struct.Struct("<BBHIQQ")


@dataclass(frozen=True)
class Interval:
    """A client had a unit from `start_ns` to `end_ns`."""

    start_ns: int
    end_ns: int
    unit: int
    token: int
    client: int


class Book:
    """Append-only, one write a record, so that a kill leaves whole records."""

    def __init__(self, path: Path, life: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._life = life

    def write(self, kind: Kind, client: int, lease: Lease | None = None) -> None:
        """Put down what happens now."""
        unit, token = (lease.unit, lease.token) if lease else (0, 0)
        entry = LAYOUT.pack(kind, unit, client, self._life, token, time.monotonic_ns())
        os.write(self._file, entry)

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)


def read_book(path: Path) -> list[Record]:
    """All records of one process, in the order they were written."""
    data = path.read_bytes()
    whole = data[: len(data) // LAYOUT.size * LAYOUT.size]
    return [Record(Kind(kind), *rest) for kind, *rest in LAYOUT.iter_unpack(whole)]


def witness(folder: Path, unit: int) -> int | None:
    """The unit's lock file, locked; None when somebody else has it. Close it to unlock."""
    file = os.open(folder / f"unit-{unit}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def intervals(book: Iterable[Record], deaths: dict[int, int]) -> list[Interval]:
    """Who had what; who was killed had it until then at least."""
    found: list[Interval] = []
    has: dict[int, Record] = {}

    def close(record: Record, end_ns: int) -> None:
        end_ns = max(end_ns, record.time_ns)
        found.append(Interval(record.time_ns, end_ns, record.unit, record.token, record.client))

    for record in book:
        if record.kind is Kind.HAS:
            has[record.client] = record
        elif record.kind is Kind.HAS_NOT:
            close(has.pop(record.client), record.time_ns)
    for record in has.values():
        close(record, deaths.get(record.life, record.time_ns))
    return found


def waits(book: Iterable[Record]) -> list[tuple[int, int, int]]:
    """(client, asked, had it), ns, of every answered question."""
    asked: dict[int, int] = {}
    found: list[tuple[int, int, int]] = []
    for record in book:
        if record.kind is Kind.ASKED:
            asked[record.client] = record.time_ns
        elif record.kind is Kind.HAS:
            found.append((record.client, asked.pop(record.client), record.time_ns))
    return found


def most_at_once(found: Iterable[Interval]) -> int:
    """The largest number of intervals that have an instant in common."""
    steps = sorted(
        step for each in found for step in ((each.start_ns, 1), (each.end_ns, -1))
    )  # at the same time, an end comes first
    now = most = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most


def disorder(found: Iterable[Interval], capacity: int) -> int:
    """How often a unit does not exist, is had twice at once, or by an older token than before. A
    client that starts again under its name has the same unit by the same token."""
    of_unit: dict[int, list[Interval]] = defaultdict(list)
    for each in found:
        of_unit[each.unit].append(each)
    wrong = sum(len(had) for unit, had in of_unit.items() if unit >= capacity)
    owners: dict[int, int] = {}
    for had in of_unit.values():
        had.sort(key=lambda interval: interval.start_ns)
        for before, after in pairwise(had):
            wrong += after.start_ns < before.end_ns or after.token < before.token
        for interval in had:
            wrong += owners.setdefault(interval.token, interval.client) != interval.client
    return wrong


def served_meanwhile(asks: list[tuple[int, int, int]], class_of: Callable[[int], int]) -> int:
    """How often another client of the same class was served during one wait: the 99th percentile
    of a sample. In order of arrival it is once, or twice when one was kept from asking right after
    it wrote that it asks."""
    grants: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for client, _, had in asks:
        grants[class_of(client)].append((had, client))
    for each in grants.values():
        each.sort()
    worst = []
    for client, start, end in random.Random(0).sample(asks, min(SAMPLE, len(asks))):
        mine = grants[class_of(client)]
        window = mine[bisect(mine, (start, -1)) : bisect(mine, (end, -1))]
        times = Counter(other for _, other in window if other != client)
        worst.append(max(times.values(), default=0))
    return sorted(worst)[len(worst) * 99 // 100] if worst else 0
