"""Takes what is dropped into a folder through the service, each file once, whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.api import (
    ApiError,
    AsyncClient,
    BusyError,
    ConflictError,
    ForbiddenError,
    JobOptions,
    JobState,
    NotFoundError,
    RefusedError,
    Stamp,
    UnauthorizedError,
)
from client.showing import plain
from client.watch.folder import Found, Settling, being_written, find, sample_of, scan
from client.watch.looking import look
from client.watch.record import Entry, Record, State
from shared.errors import DualfaceError, ErrorCode, PermanentError

POLL_S = 1.0
DOUBT_FACTOR = 5
"""A file that can't be read as a video may be one that is still on its way, from where nobody sees
who writes it: it is refused when it has not changed for this many times `settle_s`."""
AWAY_S = 5.0
AWAY_MOST_S = 60.0

SENDABLE = (ErrorCode.SOURCE_MISSING, ErrorCode.SOURCE_CHANGED, ErrorCode.SOURCE_EMPTY)
"""The file is another one by now."""
PASSING = (ErrorCode.NO_SPACE, ErrorCode.OUTPUT_UNWRITABLE, ErrorCode.BUSY)
"""Of the folder of results: somebody has to do something about it, and then it goes on."""


@dataclass(frozen=True)
class Wishes:
    """What `dualface watch` was asked for."""

    folder: Path
    out: Path
    at_once: int
    settle_s: float
    retry_failed: bool
    options: JobOptions = field(default_factory=lambda: JobOptions())


Tell = Callable[[str, Entry, str], None]
"""Called with what happened (an event's name), the entry as it is now, and words for people."""


class UntoldError(DualfaceError):
    """Nobody hears any more what becomes of the files; no file is at fault."""

    def __init__(self, why: str) -> None:
        super().__init__(ErrorCode.INTERNAL, f"What happens can't be told any more ({why}).")
        self.args = (why,)


class Watcher:
    """Runs in an event loop until it is cancelled; what is under way is then left to the next one.

    Raises UnauthorizedError, ForbiddenError: with this key it can do nothing; UntoldError.
    """

    def __init__(self, client: AsyncClient, record: Record, wishes: Wishes, tell: Tell) -> None:
        self._client = client
        self._record = record
        self._wishes = wishes
        self._tell = tell
        self._settling = Settling(wishes.settle_s)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._hints: dict[str, tuple[int, int]] = {}
        self._doubts: dict[str, tuple[Stamp, float]] = {}
        self._away = False

    async def run(self) -> None:
        """Go on with what was under way, then take what comes."""
        waiting = deque(entry for entry in self._record.all() if not entry.state.ended)
        if self._wishes.retry_failed:
            waiting += (entry for entry in self._record.all() if entry.state is State.FAILED)
        poll_s = min(POLL_S, self._wishes.settle_s / 2)
        try:
            while True:
                while waiting and len(self._tasks) < self._wishes.at_once:
                    entry = waiting.popleft()
                    self._begin(entry.name, self._go_on(entry))
                if not waiting:
                    await self._take_new()
                await self._rest(poll_s)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, name: str, work: Coroutine[object, object, None]) -> None:
        self._tasks[name] = asyncio.create_task(work)

    async def _rest(self, seconds: float) -> None:
        """Until then, or until there is room for another file. Raises what ended a task."""
        tasks = set(self._tasks.values())
        full = len(tasks) >= self._wishes.at_once
        if full:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)
        for name, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[name]
                task.result()

    # --- finding ----------------------------------------------------------------------------------

    async def _take_new(self) -> None:
        room = self._wishes.at_once - len(self._tasks)
        if room <= 0:
            return
        for found, sample in await asyncio.to_thread(self._new, room):
            self._begin(found.name, self._take(found, sample))

    def _new(self, most: int) -> list[tuple[Found, str]]:
        """Files that are whole, as far as one sees without opening them, and were not taken."""
        try:
            everything = scan(self._wishes.folder)
        except OSError:
            return []  # unmounted, perhaps; it comes again
        self._forget_lost(everything)
        settled = [each for each in self._settling.settled(everything) if self._is_due(each)]
        new = [(each, sample) for each in settled if (sample := self._sample_if_new(each))]
        if not new:
            return []
        written = being_written({each.place for each, _ in new})
        return [(each, sample) for each, sample in new if each.place not in written][:most]

    def _is_due(self, found: Found) -> bool:
        if found.name in self._tasks:
            return False
        entry = self._record.find(found.name)
        known = entry is not None and entry.stamp == found.stamp and entry.state is not State.GONE
        if known and self._hints.get(found.name) == found.hint:
            return False
        stamp, again_at = self._doubts.get(found.name, (None, 0.0))
        return stamp != found.stamp or time.monotonic() >= again_at

    def _sample_if_new(self, found: Found) -> str | None:
        sample = sample_of(found)
        entry = self._record.find(found.name)
        if sample is None or entry is None or entry.state is State.GONE:
            return sample
        if (entry.stamp, entry.sample) != (found.stamp, sample):
            return sample
        self._hints[found.name] = found.hint
        return None

    def _forget_lost(self, found: list[Found]) -> None:
        names = {each.name for each in found}
        for memory in (self._hints, self._doubts):
            for name in [name for name in memory if name not in names]:
                del memory[name]

    # --- one file ---------------------------------------------------------------------------------

    async def _take(self, found: Found, sample: str) -> None:
        try:
            problem = await look(found.path)
        except OSError:
            return  # no process can be started just now; the next scan finds it again
        record = self._record
        # Only now, and written down before anybody else's turn: no two files get one output.
        output = record.output_for(found.name)
        entry = Entry(found.name, found.stamp.size, found.stamp.mtime_ns, sample, output)
        if problem is not None:
            doubt_s = self._wishes.settle_s * DOUBT_FACTOR
            stamp, _ = self._doubts.get(found.name, (None, 0.0))
            if stamp != found.stamp:
                self._doubts[found.name] = (found.stamp, time.monotonic() + doubt_s)
                return
            self._fail(entry, problem.code.value, problem.message)
        else:
            entry = record.put(entry, State.TAKEN)
            self._say("taken", entry, "taken")
            await self._go_on(entry)
        self._doubts.pop(found.name, None)

    async def _go_on(self, entry: Entry) -> None:
        """To its end. What may pass is waited for, however long it takes."""
        away_s = AWAY_S
        while True:
            entry = self._record.find(entry.name) or entry
            try:
                await self._make(entry)
            except (UnauthorizedError, ForbiddenError, UntoldError):
                raise
            except RefusedError as error:
                self._fail(entry, error.code, error.detail)
            except ApiError as error:
                await self._wait(entry, error.detail, max(away_s, error.retry_after or 0.0))
                away_s = min(AWAY_MOST_S, 2 * away_s)
                continue
            except DualfaceError as error:
                if error.code in SENDABLE:
                    self._say("gone", self._record.put(entry, State.GONE), error.message)
                elif error.code in PASSING:
                    await self._wait(entry, error.message, AWAY_MOST_S)
                    continue
                else:
                    self._fail(entry, error.code.value, error.message)
            except OSError as error:  # of this file or its result, and of no other
                latest = self._record.find(entry.name) or entry  # with its job, if it is one
                why = f"The file or its result could not be read or written ({error})."
                self._fail(latest, ErrorCode.INTERNAL.value, why)
            return

    async def _wait(self, entry: Entry, why: str, seconds: float) -> None:
        self._say("waiting", entry, f"waiting: {why}")
        await asyncio.sleep(seconds)

    async def _make(self, entry: Entry) -> None:
        if entry.state is State.FAILED:
            entry = await self._tried_again(entry)
        if entry.state in (State.TAKEN, State.SENDING):
            entry = await self._sent(entry)
        try:
            await self._followed(entry)
        except NotFoundError:
            # The service has lost it, or its result was not kept for as long as we were away.
            entry = self._record.put(entry, State.TAKEN, upload="", job="")
            await self._followed(await self._sent(entry))

    async def _tried_again(self, entry: Entry) -> Entry:
        """A job that failed is made again, where it is still known; else the file is sent anew."""
        anew = {"code": "", "message": ""}
        if entry.job:
            entry = self._record.put(entry, State.SENT, **anew)
            try:
                await self._client.retry(entry.job)
                return entry
            except ConflictError:  # it runs, or its source is gone
                job = await self._client.get(entry.job)
                if job.state not in (JobState.FAILED, JobState.CANCELLED):
                    return entry
            except NotFoundError:
                pass
        return self._record.put(entry, State.TAKEN, upload="", job="", **anew)

    async def _sent(self, entry: Entry) -> Entry:
        """Until it is a job."""
        job = None
        if entry.upload:
            # Else it never arrived whole, so nobody makes a job of it.
            with suppress(NotFoundError, ConflictError):
                job = await self._client.submit(entry.upload, **self._options(entry))
        if job is None:
            found = find(self._wishes.folder / entry.name)
            if found is None or found.stamp != entry.stamp:
                raise PermanentError(
                    ErrorCode.SOURCE_CHANGED, "It was changed or removed before it was sent."
                )
            stored = await self._client.upload(
                found.path,
                stamp=found.exactly,
                on_begin=lambda source: self._record.put(entry, State.SENDING, upload=source),
            )
            job = await self._client.submit(stored.source, **self._options(entry))
        entry = self._record.put(self._record.find(entry.name) or entry, State.SENT, job=job.id)
        self._say("sent", entry, f"sent as {job.id}")
        return entry

    async def _followed(self, entry: Entry) -> None:
        """Until its result is in place, or there is none."""
        job = await self._client.get(entry.job)
        while not job.state.ended:
            try:
                async for _ in self._client.events(job):
                    pass
            except BusyError:
                await asyncio.sleep(AWAY_S)
            job = await self._client.get(job)
        if job.state is JobState.SUCCEEDED:
            target = self._wishes.out / entry.output
            await self._client.result(job, target)
            frames = "" if job.result is None else f", {job.result.frames} frames"
            self._say("done", self._record.put(entry, State.DONE), f"{target}{frames}")
        else:
            error = job.error
            code = job.state.value if error is None else error.code
            self._fail(entry, code, job.state.value if error is None else error.message)

    def _options(self, entry: Entry) -> JobOptions:
        name = entry.name.encode(errors="surrogateescape").decode(errors="replace")
        return {**self._wishes.options, "name": name}

    def _fail(self, entry: Entry, code: str, message: str) -> None:
        made = self._record.put(entry, State.FAILED, code=code, message=plain(message))
        self._say("failed", made, plain(message))

    def _say(self, event: str, entry: Entry, text: str) -> None:
        try:
            self._tell(event, entry, text)
        except OSError as error:
            raise UntoldError(str(error)) from error
