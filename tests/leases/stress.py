"""Many clients of one thing, some killed in the middle of it, and an observer that trusts nobody.

What is held is proved without asking the leases. While it holds a unit, a client holds the unit's
lock file by flock, which the kernel gives to one only and takes from who is killed; each process
writes down, in a file of its own, when a client asked, when it had which unit, and from when on not
any more, in the monotonic time that all processes of a host share. A written interval lies within
the real one, so two that overlap on a unit are two holders.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.leases import Lease, Leases
from shared.processes import die_with_parent
from shared.redisdb import connect
from tests.leases.clock import jump
from tests.leases.observer import (
    LAYOUT,
    Book,
    Kind,
    Record,
    disorder,
    intervals,
    most_at_once,
    read_book,
    served_meanwhile,
    waits,
    witness,
)

THING = "sessions:stress:host"
PATIENCE_S = 120.0
JUMP_S = 3600.0
LONG, LONG_SHARE = 30, 0.1
"""Some hold this many times longer than others, so that kills meet holders too."""
CALM_S = 30.0
"""How long nobody is killed at the end, so that all who wait are served."""


@dataclass(frozen=True)
class Plan:
    """One run. Ends after `acquisitions`, or `most_s` seconds, and when every wait is answered."""

    clients: int
    processes: int
    capacity: int
    acquisitions: int
    most_s: float
    seed: int
    ttl_s: float = 8.0
    hold_ms: float = 2.0
    kill_every_s: float = 1.0
    jump_every_s: float = 1.7
    resize_every_s: float = 1.1

    def clients_of(self, process: int) -> range:
        """The clients that live in a process."""
        return range(process, self.clients, self.processes)

    def priority(self, client: int) -> int:
        """Every fourth client goes first."""
        return 6 if client % 4 == 0 else 5


@dataclass(frozen=True)
class Report:
    """What the observer found."""

    acquisitions: int
    seconds: float
    kills: int
    killed_holding: int
    jumps: int
    resizes: int
    most_held: int
    conflicts: int
    lost: int
    unanswered: int
    crashed: int
    disorder: int
    never_served: int
    median_wait_s: float
    longest_wait_s: float
    served_meanwhile_p99: int

    def faults(self) -> dict[str, int]:
        """Everything that must not be; empty when all is well."""
        names = ("conflicts", "lost", "unanswered", "crashed", "disorder", "never_served")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def text(self) -> str:
        """One fact a line."""
        return "\n".join(f"{name}: {value:g}" for name, value in asdict(self).items())


def client_process(url: str, plan: Plan, folder: Path, process: int, life: int) -> None:
    """Be all clients of a process, until SIGTERM; what is being waited for is waited for."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    leases = Leases(connect(url), plan.ttl_s)
    book = Book(folder / f"book-{life}", life)
    threads = [
        threading.Thread(target=client, args=(leases, plan, folder, book, number, life, stop))
        for number in plan.clients_of(process)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def client(
    leases: Leases,
    plan: Plan,
    folder: Path,
    book: Book,
    number: int,
    life: int,
    stop: threading.Event,
) -> None:
    """Acquire, hold, release. A successor has its predecessor's name, but in every fourth process:
    there nobody comes for what the dead one held, or was about to be given."""
    chance = random.Random(f"{plan.seed} {number} {life}")
    again = number % plan.processes % 4 != 0
    name = f"{number}" if again else f"{number} {life}"
    try:
        while not stop.is_set():
            book.write(Kind.ASKED, number)
            lease = leases.acquire(THING, name, wait_s=PATIENCE_S, priority=plan.priority(number))
            if lease is None:
                book.write(Kind.UNANSWERED, number)
                continue
            hold(leases, plan, folder, book, number, lease, chance)
    except BaseException:
        book.write(Kind.CRASHED, number)
        traceback.print_exc()
        raise


def hold(
    leases: Leases,
    plan: Plan,
    folder: Path,
    book: Book,
    number: int,
    lease: Lease,
    chance: random.Random,
) -> None:
    """One holding, witnessed: written and locked after the grant, and undone before the release."""
    lock = witness(folder, lease.unit)
    if lock is None:
        book.write(Kind.CONFLICT, number, lease)
    book.write(Kind.HAS, number, lease)
    longer = LONG if chance.random() < LONG_SHARE else 1
    time.sleep(chance.uniform(0, plan.hold_ms * longer) / 1000)
    if chance.random() < 0.1 and not leases.renew(lease):
        book.write(Kind.LOST, number, lease)
    book.write(Kind.HAS_NOT, number, lease)
    if lock is not None:
        os.close(lock)
    if not leases.release(lease):
        book.write(Kind.LOST, number, lease)


class Crowd:
    """The client processes, and who disturbs them."""

    def __init__(self, url: str, plan: Plan, folder: Path) -> None:
        self._url, self._plan, self._folder = url, plan, folder
        self._redis = connect(url)
        self._leases = Leases(self._redis, plan.ttl_s)
        self._chance = random.Random(plan.seed)
        self._lives = 0
        self._pids: dict[int, tuple[int, int]] = {}
        self.deaths: dict[int, int] = {}
        self.jumps = self.resizes = 0

    def start(self) -> None:
        """All processes."""
        self._leases.resize(THING, self._plan.capacity)
        for process in range(self._plan.processes):
            self._start(process)

    def _start(self, process: int) -> None:
        life = self._lives
        self._lives += 1
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                die_with_parent(signal.SIGKILL)
                client_process(self._url, self._plan, self._folder, process, life)
                code = 0
            finally:
                os._exit(code)
        self._pids[process] = (pid, life)

    def kill(self) -> None:
        """SIGKILL one process and put a new one in its place."""
        process = self._chance.randrange(self._plan.processes)
        pid, life = self._pids[process]
        self.deaths[life] = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self._start(process)

    def jump(self) -> None:
        """The server's clock jumps by an hour."""
        jump(self._redis, THING, self._chance.choice([JUMP_S, -JUMP_S]))
        self.jumps += 1

    def resize(self) -> None:
        """Down to half of the units and up again, in turns."""
        self.resizes += 1
        half = max(1, self._plan.capacity // 2)
        self._leases.resize(THING, half if self.resizes % 2 else self._plan.capacity)

    def finish(self) -> None:
        """Let every client have what it waits for, then end."""
        self._leases.resize(THING, self._plan.capacity)
        for pid, _ in self._pids.values():
            os.kill(pid, signal.SIGTERM)
        for pid, _ in self._pids.values():
            os.waitpid(pid, 0)

    def living(self) -> set[int]:
        """Lives that nobody ended."""
        return set(range(self._lives)) - set(self.deaths)


def stress(url: str, plan: Plan, folder: Path) -> Report:
    """Run `plan` on the server at `url`, books and lock files in `folder`. Forks: call it from a
    process with one thread."""
    crowd = Crowd(url, plan, folder)
    began = time.monotonic()
    crowd.start()
    todo: list[tuple[float, float, Callable[[], None]]] = [
        (began + every, every, what)
        for every, what in (
            (plan.kill_every_s, crowd.kill),
            (plan.jump_every_s, crowd.jump),
            (plan.resize_every_s, crowd.resize),
        )
    ]
    while time.monotonic() - began < plan.most_s and _done(folder, plan, crowd) < plan.acquisitions:
        time.sleep(0.02)
        for place, (due, every, what) in enumerate(todo):
            if time.monotonic() >= due:
                what()
                todo[place] = (time.monotonic() + every, every, what)
    # On a busy machine some may have been killed every time before it was their turn.
    calm = time.monotonic()
    while time.monotonic() - calm < CALM_S and len(_served(_books(folder))) < plan.clients:
        time.sleep(0.1)
    crowd.finish()
    seconds = time.monotonic() - began
    return observe(_books(folder), plan, seconds, crowd)


def _books(folder: Path) -> list[list[Record]]:
    return [read_book(path) for path in folder.glob("book-*")]


def _served(books: list[list[Record]]) -> set[int]:
    """Clients that had a unit at least once."""
    return {record.client for book in books for record in book if record.kind is Kind.HAS}


def _done(folder: Path, plan: Plan, crowd: Crowd) -> int:
    """Acquisitions so far, at least: three records each, and one for an unfinished one."""
    records = sum(path.stat().st_size for path in folder.glob("book-*")) // LAYOUT.size
    unfinished = 2 * (plan.clients + len(crowd.deaths) * (plan.clients // plan.processes + 1))
    return (records - unfinished) // 3


def observe(books: list[list[Record]], plan: Plan, seconds: float, crowd: Crowd) -> Report:
    """Judge a run by the books alone, and the times of the kills."""
    found = [interval for book in books for interval in intervals(book, crowd.deaths)]
    asks = [wait for book in books for wait in waits(book)]
    kinds = Counter(record.kind for book in books for record in book)
    lengths = [(end - start) / 1e9 for _, start, end in asks] or [0.0]
    open_ends = sum(_open_ended(book) for book in books)
    return Report(
        acquisitions=kinds[Kind.HAS],
        seconds=round(seconds, 1),
        kills=len(crowd.deaths),
        killed_holding=open_ends,
        jumps=crowd.jumps,
        resizes=crowd.resizes,
        most_held=most_at_once(found),
        conflicts=kinds[Kind.CONFLICT],
        lost=kinds[Kind.LOST],
        unanswered=kinds[Kind.UNANSWERED] + _unanswered(books, crowd.living()),
        crashed=kinds[Kind.CRASHED],
        disorder=disorder(found, plan.capacity),
        never_served=plan.clients - len(_served(books)),
        median_wait_s=round(statistics.median(lengths), 4),
        longest_wait_s=round(max(lengths), 3),
        served_meanwhile_p99=served_meanwhile(asks, plan.priority),
    )


def _open_ended(book: Iterable[Record]) -> int:
    kinds = Counter(record.kind for record in book)
    return kinds[Kind.HAS] - kinds[Kind.HAS_NOT]


def _unanswered(books: list[list[Record]], living: set[int]) -> int:
    """Questions of processes that nobody killed, still open at their end."""
    last = {
        (record.life, record.client): record.kind
        for book in books
        for record in book
        if record.life in living
    }
    return sum(kind is Kind.ASKED for kind in last.values())
