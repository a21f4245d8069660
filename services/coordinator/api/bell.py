"""Wakes whoever waits for something to happen to a job: one subscription for a whole process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from shared.errors import ErrorCode, TemporaryError
from shared.logs import Log
from shared.redisdb import RedisError, listen

CHANNEL = "df:bell"
"""The ledger's scripts publish the id of every job that something happened to."""

MOST = 2000
"""Watchers of one process: each is an open connection."""

FULL_S = 120.0
"""Until somebody whom there was no room for is asked to come again: room comes when streams end, so
they had better look at the job meanwhile, as the page does."""


class Bell:
    """Runs in the server's event loop."""

    def __init__(self, redis_url: str, log: Log) -> None:
        self._url = redis_url
        self._log = log
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen from now on."""
        self._task = asyncio.create_task(self._run(), name="bell")

    async def stop(self) -> None:
        """Listen no longer; who waits is woken."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._wake_all()

    @contextmanager
    def watching(self, job: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something may have happened to the job.

        Raises TemporaryError BUSY when too many watch already.
        """
        if sum(map(len, self._waiting.values())) >= MOST:
            raise TemporaryError(
                ErrorCode.BUSY,
                "Too many watch jobs just now; look at the job every few seconds instead.",
                FULL_S,
            )
        event = asyncio.Event()
        self._waiting[job].add(event)
        try:
            yield event
        finally:
            self._waiting[job].discard(event)
            if not self._waiting[job]:
                del self._waiting[job]

    async def _run(self) -> None:
        while True:
            try:
                async for job in listen(self._url, CHANNEL):
                    if job is None:
                        self._wake_all()  # connected anew: what was rung meanwhile was not heard
                    for event in self._waiting.get(job or "", ()):
                        event.set()
            except RedisError as error:
                self._log.warning("Redis out of reach", reason=str(error))
            await asyncio.sleep(0.5)

    def _wake_all(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()
