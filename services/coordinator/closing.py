"""What is left of a job that ended is given back and removed; users' view of it is kept.

At the end: slots, segments, chunks, and the source of a job that succeeded. After `retention_s`:
result, a failed job's source, last the record. All of it may be repeated, so a coordinator may die
anywhere in it. In a thread of its own: a store takes seconds to delete what a long job left, and
neither dispatch nor leases may wait for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from threading import Event

from services.coordinator.plan import going
from services.coordinator.telling import Telling
from shared.errors import StoreAwayError, StoreRefusedError, TemporaryError
from shared.jobs import JobState
from shared.ledger import JobView
from shared.logs import Log
from shared.metrics.catalogue import JOB_RATE, JOB_SECONDS, JOBS_ENDED, REDIS_ERRORS
from shared.names import ENGINE_LOGS, JOBS, job_folder
from shared.redisdb import RedisError
from shared.runtime import Runtime
from shared.storage.dated import sweep
from shared.traces import Traces
from shared.uploads import Uploads

CLEANED_AT_ONCE = 16
CLEAN_FOR_S = 1.0
"""After so long those that ended meanwhile are told of, and their slots freed, before more go."""
TELL_EVERY_S = 0.5
TOLD_AT_ONCE = 32
"""Jobs whose progress is told at a time (some 10 ms of work); each waits for its turn."""
SWEEP_EVERY_S = 5.0
SWEPT_AT_ONCE = 32
LOOKED_AT_ONCE = 500
ORPHANS_EVERY_S = 600.0
ORPHAN_AGE_S = 3600.0
"""Longer than any upload before its job is submitted."""
LEFTOVER_AGE_S = 26 * 3600.0
"""Longer than any upload takes that may still come to an end."""
PUT_OFF_S = 10.0
"""What needs the store is left for so long when it is away: asking it holds up all else here."""


class StorePause:
    """Whether the store was found away a moment ago."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s = clock()
        self._log = Log(stage="coordinator")

    def lasts(self) -> bool:
        """True when it is not to be asked yet."""
        return self._clock() < self._until_s

    @contextmanager
    def found(self) -> Iterator[None]:
        """Around what asks the store; when it is away, the rest of the block is put off."""
        try:
            yield
        except (StoreAwayError, StoreRefusedError) as error:
            self._until_s = self._clock() + PUT_OFF_S
            self._log.warning("the store is away, cleaned up later", reason=error.message)


class Closing:
    """Tells `AsyncResult` how jobs stand, and cleans up after those that ended."""

    def __init__(
        self,
        runtime: Runtime,
        telling: Telling,
        clock: Callable[[], float] = time.monotonic,
        traces: Traces | None = None,
    ) -> None:
        """`clock`: seconds, monotonic."""
        self._runtime = runtime
        self._telling = telling
        self._traces = traces or Traces("coordinator")
        self._clock = clock
        self._told_s = -TELL_EVERY_S
        self._pause = StorePause(clock)
        self._retention = Retention(runtime, clock, self._pause)
        self._woken = Event()
        self._log = Log(stage="coordinator")

    def run(self, ended: Callable[[], bool]) -> None:
        """Step until `ended`, whenever `wake` is called and a few times a second; blocks."""
        while not ended():
            try:
                more = self.step()
            except (RedisError, TemporaryError) as error:
                self._log.warning("cleaning up waits for Redis", reason=str(error))
                self._runtime.meter.count(REDIS_ERRORS, stage="coordinator")
                more = False
            if not more:
                self._woken.wait(TELL_EVERY_S)
                self._woken.clear()

    def wake(self) -> None:
        """Something may have changed. From any thread, at once."""
        self._woken.set()

    def step(self) -> bool:
        """Tell and clean up some that ended; every now and then tell how some of the live jobs
        stand, and remove what has outlived its time. True when there may be more to clean up."""
        ended = self._runtime.ledger.to_clean(CLEANED_AT_ONCE)
        for job in ended:
            self._tell_end(job)
        self._tell_progress()
        cleaned = self._clean_up(ended)
        self._retention.step()
        full = len(ended) == CLEANED_AT_ONCE or cleaned < len(ended)
        return full and not self._pause.lasts()

    def _tell_end(self, job: str) -> None:
        """That and how the job ended; its slots are for others from now on."""
        view = self._runtime.ledger.view(job)
        if view is not None:
            self._telling.tell(view)
            if not view.state.ended:
                return  # submitted again meanwhile
            self._traces.job_ended(view)
        for flight in self._runtime.ledger.flights(job):
            self._runtime.release(flight.message.slot)

    def _tell_progress(self) -> None:
        ledger, now = self._runtime.ledger, self._clock()
        if now - self._told_s >= TELL_EVERY_S:
            self._told_s = now
            self._telling.beat()
            for view in ledger.views(ledger.changed(TOLD_AT_ONCE)):
                if not view.state.ended:
                    self._telling.tell(view)

    def _clean_up(self, ended: Sequence[str]) -> int:
        """How many of them it came to."""
        until_s = self._clock() + CLEAN_FOR_S
        for count, job in enumerate(ended):
            if self._pause.lasts() or (count and self._clock() >= until_s):
                return count
            try:
                with self._pause.found():
                    self._clean(job)
            except FileNotFoundError:
                # Its client removes it at the same time; the job stays in the list for later.
                self._log.info("cleaned up by two", job=job)
        return len(ended)

    def _clean(self, job: str) -> None:
        """Idempotent: the job leaves the list of the ended last."""
        if not self._runtime.ledger.is_ending(job):
            return  # dropped meanwhile; objects that are there now are of who submits it again
        view = self._runtime.ledger.view(job)
        if view is not None and not view.state.ended:
            return  # submitted again meanwhile
        store, folder = self._runtime.store, job_folder(job)
        if view is None or view.state is JobState.CANCELLED:
            store.delete(folder)
        else:
            keep_source = self._runtime.settings.keep_sources
            for prefix in going(store.keys(folder), view.state, keep_source=keep_source):
                store.delete(prefix)
        if self._runtime.ledger.cleaned(job) and view is not None:
            self._measure(view)
        self._traces.job_cleaned(job)
        self._log.info("job ended", job=job, state=view.state.value if view else "gone")

    def _measure(self, view: JobView) -> None:
        """A job's last figures, when it leaves the list; once, unless this process dies now."""
        meter = self._runtime.meter
        meter.count(JOBS_ENDED, state=view.state.value, code=view.code or "ok")
        if view.result is not None and view.ended_ms is not None:
            meter.observe(JOB_SECONDS, _seconds(view.submitted_ms, view.ended_ms))
            if view.decoding_ms is not None:
                seconds = _seconds(view.decoding_ms, view.ended_ms)
                meter.observe(JOB_RATE, view.result.frames / seconds)


def _seconds(since_ms: int, until_ms: int) -> float:
    """At least a thousandth: the two may be of different clocks."""
    return max(1, until_ms - since_ms) / 1000


class Retention:
    """Removes ended jobs that have outlived `retention_s`, and objects that belong to no job.

    What it remembers is how long it has seen an orphan; a successor begins to count anew.
    """

    def __init__(self, runtime: Runtime, clock: Callable[[], float], pause: StorePause) -> None:
        self._runtime = runtime
        self._clock = clock
        self._pause = pause
        self._uploads = Uploads(runtime.redis)
        self._swept_s = clock()
        self._round_s = clock()
        self._keys: Iterator[str] | None = None
        self._orphans: dict[str, float] = {}
        self._met: set[str] = set()
        self._log = Log(stage="coordinator")

    def step(self) -> None:
        """Every few seconds remove some of what is due, and look at some of the store's objects."""
        now = self._clock()
        if now - self._swept_s < SWEEP_EVERY_S or self._pause.lasts():
            return
        self._swept_s = now
        try:
            with self._pause.found():
                self._bury_outlived()
                self._look_for_orphans(now)
                return
            self._keys = None  # its listing broke off
        except FileNotFoundError:
            # A folder that was being listed has gone: its client removed it. Another time.
            self._keys = None

    def _bury_outlived(self) -> None:
        ledger = self._runtime.ledger
        for _ in range(SWEPT_AT_ONCE):
            # One at a time: as long as it is claimed, nobody can try it again.
            job = ledger.outlived(SWEPT_AT_ONCE)
            if job is None:
                return
            # Objects first: as long as there are any, the record says that they have to go.
            self._runtime.store.delete(job_folder(job))
            if ledger.bury(job):
                self._log.info("record and result removed", job=job)

    def _look_for_orphans(self, now: float) -> None:
        """One slice of a round over the store; a job is looked up once a round."""
        if self._keys is None:
            if now - self._round_s < ORPHANS_EVERY_S:
                return
            self._round_s, self._met = now, set()
            if left := self._runtime.store.clear_leftovers(LEFTOVER_AGE_S):
                self._log.warning("unfinished uploads removed", count=left)
            # Of compiling engines, kept for 90 days.
            sweep(self._runtime.store, ENGINE_LOGS, datetime.now(UTC).date())
            self._keys = iter(self._runtime.store.keys(JOBS))
        keys = list(islice(self._keys, LOOKED_AT_ONCE))
        for job in dict.fromkeys(key.split("/")[1] for key in keys):
            if job not in self._met:
                self._met.add(job)
                self._judge(job, now)
        if len(keys) < LOOKED_AT_ONCE:
            self._keys = None
            self._orphans = {job: at for job, at in self._orphans.items() if job in self._met}

    def _judge(self, job: str, now: float) -> None:
        if self._runtime.ledger.state(job) is not None or self._uploads.exists(job):
            self._orphans.pop(job, None)
        elif now - self._orphans.setdefault(job, now) >= ORPHAN_AGE_S:
            self._runtime.store.delete(job_folder(job))
            self._log.warning("objects of no job removed", job=job)
            del self._orphans[job]
