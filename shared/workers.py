"""Signs of life: who works, on what, and whether it still does.

A key per worker that expires when its beat stops. Its expiry counts by the clock of Redis's host,
which may jump; so the beat is also counted, and watchers go by their own monotonic clocks.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator

from pydantic import Field, ValidationError

from shared.jobs import Model
from shared.processes import started_ticks
from shared.redisdb import Connection, RedisError, check_writes

PREFIX = "df:worker:"


class WorkerRecord(Model):
    """One process that does a stage's work."""

    id: str
    stage: str
    arena: str
    pid: int
    started: float = Field(description="when the process began, clock ticks since boot")
    beat: int = Field(default=0, description="counts on with every sign of life")


class Heartbeat:
    """A thread that keeps `df:worker:ID` alive while its process lives."""

    def __init__(
        self,
        connection: Connection,
        stage: str,
        arena: str,
        every_s: float,
        dead_after_s: float,
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_beat` is called in its thread each time, also while Redis is away; raises nothing."""
        name = f"{stage}-{arena}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.record = WorkerRecord(
            id=name, stage=stage, arena=arena, pid=os.getpid(), started=started_ticks(os.getpid())
        )
        self._redis = connection
        self._every_s = every_s
        self._on_beat = on_beat
        self._ttl_ms = int(dead_after_s * 1000)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Announce the worker, then go on in the background."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye: the worker counts as gone at once."""
        self._stop.set()
        self._thread.join(timeout=5)
        try:
            self._redis.delete(PREFIX + self.record.id)
        except RedisError:
            return  # Redis went first; the key expires by itself

    def _beat(self) -> None:
        self.record = self.record.model_copy(update={"beat": self.record.beat + 1})
        self._redis.set(PREFIX + self.record.id, self.record.model_dump_json(), px=self._ttl_ms)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._on_beat()
            try:
                self._beat()
            except RedisError:
                continue  # out of reach: the next beat tries again, silence is what others see


class Watch:
    """What one watcher has seen of all workers' beats, by its own monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[WorkerRecord, float]] = {}

    def look(self, records: Iterable[WorkerRecord], now: float) -> None:
        """Take in who gives signs of life at `now` (seconds, monotonic)."""
        for record in records:
            known = self._seen.get(record.id)
            if known is None or known[0].beat != record.beat:
                self._seen[record.id] = (record, now)

    def start_anew(self, now: float) -> None:
        """Nobody could be seen until now: nobody has been silent."""
        self._seen = {name: (record, now) for name, (record, _) in self._seen.items()}

    def silent(self, now: float, after_s: float) -> list[WorkerRecord]:
        """Whose beat has stood still for `after_s` seconds, whether or not the key is there."""
        return [record for record, since in self._seen.values() if now - since >= after_s]

    def forget(self, worker: str) -> None:
        """The worker is known to be gone."""
        self._seen.pop(worker, None)


def withdraw(connection: Connection, worker: str) -> None:
    """Say in a dead worker's place that it is gone."""
    connection.delete(PREFIX + worker)


def withdraw_gone(connection: Connection) -> None:
    """Say so of all workers of this host whose process is gone: only where there is no other host,
    and no other space of process ids."""
    for record in list(living(connection)):
        if started_ticks(record.pid) != record.started:
            withdraw(connection, record.id)


def is_alive(connection: Connection, worker: str) -> bool:
    """True when the worker with this id gave a sign of life lately."""
    return bool(connection.exists(PREFIX + worker))


def heard(connection: Connection) -> list[WorkerRecord]:
    """As `living`, for who goes by a worker's silence: that says nothing while Redis takes no sign
    of life. Raises RedisError then, too: it answers, and can't write (its disk is full, say)."""
    check_writes(connection)
    return list(living(connection))


def living(connection: Connection) -> Iterator[WorkerRecord]:
    """All workers that gave a sign of life lately."""
    keys = [str(key) for key in connection.scan_iter(match=f"{PREFIX}*", count=500)]
    for text in connection.mget(keys) if keys else []:
        if text is None:
            continue  # died between the two calls
        try:
            yield WorkerRecord.read_kept(str(text))
        except ValidationError:
            continue  # a worker of another release
