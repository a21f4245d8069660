"""Signs of life: who works, on what, and whether it still does. Time is Redis's (key expiry)."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator

from pydantic import ValidationError

from shared.jobs import Model
from shared.redisdb import Connection, RedisError

PREFIX = "df:worker:"


class WorkerRecord(Model):
    """One process that does a stage's work."""

    id: str
    stage: str
    arena: str
    pid: int
    engine: str = ""


class Heartbeat:
    """A thread that keeps `df:worker:ID` alive while its process lives."""

    def __init__(
        self, connection: Connection, stage: str, arena: str, every_s: float, dead_after_s: float
    ) -> None:
        name = f"{stage}-{arena}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.record = WorkerRecord(id=name, stage=stage, arena=arena, pid=os.getpid())
        self._redis = connection
        self._every_s = every_s
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
        self._redis.set(PREFIX + self.record.id, self.record.model_dump_json(), px=self._ttl_ms)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._beat()
            except RedisError:
                continue  # out of reach: the next beat tries again, silence is what others see


def is_alive(connection: Connection, worker: str) -> bool:
    """True when the worker with this id gave a sign of life lately."""
    return bool(connection.exists(PREFIX + worker))


def living(connection: Connection) -> Iterator[WorkerRecord]:
    """All workers that gave a sign of life lately."""
    keys = [str(key) for key in connection.scan_iter(match=f"{PREFIX}*", count=500)]
    for text in connection.mget(keys) if keys else []:
        if text is None:
            continue  # died between the two calls
        try:
            yield WorkerRecord.model_validate_json(str(text))
        except ValidationError:
            continue  # a worker of another release
