"""Ends workers of this host that have fallen silent but still exist.

A worker that is stopped (SIGSTOP, a frozen container), or hangs so that its beat stops too, would
one day go on as if nothing had happened. Its work is given to others when its key expires; before
that its process has to be gone, so that it can't write into memory that is others' by then.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from shared.arena.files import is_file_of
from shared.logs import Log
from shared.processes import is_stopped, started_ticks
from shared.redisdb import Connection, RedisError
from shared.workers import Watch, WorkerRecord, heard, living, withdraw

LOOK_EVERY_S = 0.5
EARLIER = 0.8
"""Part of the time after which the coordinator counts a worker as dead."""
LATER = 6.0
"""As many of these times until one is ended that is silent though not stopped: it may be starved by
others, on a machine with too much to do, and its work is with another by then."""


END_WITHIN_S = 10.0


def end_holders(connection: Connection, arena: str) -> list[WorkerRecord]:
    """End this host's workers that have an earlier generation of `arena` open, and wait until they
    are gone, 10 s at most; returns them. Their parents start others, and put back what they had.

    For an arena in a GPU's memory: what the dead owner's workers have open is lost, but stays
    allocated, and with their contexts may leave no room for another.
    """
    held = [
        record
        for record in living(connection)
        if record.arena == arena and _is_here(record) and _has_open(record.pid, arena)
    ]
    for record in held:
        Log(stage="arena").warning("worker of a lost arena ended", worker=record.id, pid=record.pid)
        with suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGKILL)
    deadline = time.monotonic() + END_WITHIN_S
    while any(map(_is_here, held)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held


def _is_here(record: WorkerRecord) -> bool:
    return started_ticks(record.pid) == record.started != 0.0


def _has_open(pid: int, arena: str) -> bool:
    with suppress(OSError):
        for each in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if is_file_of(os.readlink(each.path), arena):
                    return True
    return False


class Reaper:
    """Belongs to the owner of the arena: it shares host and process ids with those who map it."""

    def __init__(self, connection: Connection, arena: str, dead_after_s: float) -> None:
        self._redis = connection
        self._arena = arena
        self._after_s = EARLIER * dead_after_s
        self._watch = Watch()
        self._blind = False
        self._seen: set[str] = set()
        self._log = Log(stage="arena")

    def step(self) -> list[WorkerRecord]:
        """Look once; returns the workers that were ended."""
        now = time.monotonic()
        try:
            mine = [record for record in heard(self._redis) if record.arena == self._arena]
        except RedisError:
            self._blind = True  # so may be the workers: their silence says nothing
            return []
        if self._blind:
            self._blind = False
            self._watch.start_anew(now)
        self._watch.look(mine, now)
        self._bury(mine)
        ended = []
        for record in self._watch.silent(now, self._after_s):
            here = _is_here(record)
            if here and not is_stopped(record.pid) and record not in self._long_silent(now):
                continue
            self._watch.forget(record.id)
            if here:
                self._log.warning("silent worker ended", worker=record.id, pid=record.pid)
                with suppress(ProcessLookupError):
                    os.kill(record.pid, signal.SIGKILL)
                ended.append(record)
            with suppress(RedisError):
                # Its key may outlive it by hours where the clock of Redis's host was set back.
                withdraw(self._redis, record.id)
        return ended

    def _long_silent(self, now: float) -> list[WorkerRecord]:
        return self._watch.silent(now, self._after_s * LATER / EARLIER)

    def _bury(self, records: Sequence[WorkerRecord]) -> None:
        """Say of workers whose process is gone that they are: nobody need wait for their key to
        expire. Only of those that were here once: else ours is another space of process ids."""
        here = {record.id for record in records if _is_here(record)}
        for record in records:
            if record.id in self._seen - here:
                self._watch.forget(record.id)
                with suppress(RedisError):
                    withdraw(self._redis, record.id)
        self._seen = here
