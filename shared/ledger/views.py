"""Jobs as people see them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shared.jobs import JobSpec, JobState
from shared.ledger.base import INDEX, LIVE, Base, key_of
from shared.ledger.records import STAGES, Event, JobResult, JobView, Page, sum_of

SHOWN = (
    "state", "spec", "owner", "submitted_ms", "started_ms", "decoding_ms", "ended_ms", "code",
    "message", "result", "frames_expected", *(f"frames_{stage}" for stage in STAGES),
    *(f"cpu_ms_{stage}" for stage in STAGES), *(f"engine_{stage}" for stage in STAGES),
)  # fmt: skip
"""Fields of a job's record that people see: half of them, for a list of many."""
MARKS = ("state", "ended_ms", "cpu_ms_encode")
"""The last thing that changes of a job that has ended is what joining its chunks cost."""
ENDED_STATES = frozenset(state.value for state in JobState if state.ended)
EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")
RATE_EVENTS = 24
"""Chunks that the rate is taken over: some seconds' worth."""


class Views(Base):
    """One job, lists of jobs, and what happens to a job."""

    def page(self, start: int, count: int) -> list[JobView]:
        """Live jobs number `start` (from 0, oldest first) and at most `count` - 1 after it."""
        return self.views([str(job) for job in self._redis.zrange(LIVE, start, start + count - 1)])

    def view(self, job: str) -> JobView | None:
        """The job as people see it, None when unknown."""
        return next(iter(self.views([job])), None)

    def views(self, jobs: Sequence[str]) -> list[JobView]:
        """Those of `jobs` that are known, as people see them; one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for job in jobs:
            pipeline.hmget(key_of(job), SHOWN)
            pipeline.hvals(f"{key_of(job)}:losses")
        found = pipeline.execute() if jobs else []
        views = []
        for job, values, lost in zip(jobs, found[::2], found[1::2], strict=True):
            row = {name: str(v) for name, v in zip(SHOWN, values, strict=True) if v is not None}
            if "state" in row:
                views.append(_view(job, row, lost))
        return views

    def marks(self, jobs: Sequence[str]) -> list[str]:
        """What tells whether a job that has ended still looks as it did, "" for all others: cheaper
        than its view. One round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for job in jobs:
            pipeline.hmget(key_of(job), MARKS)
        rows = pipeline.execute() if jobs else []
        return [" ".join(map(str, row)) if row[0] in ENDED_STATES else "" for row in rows]

    def listed(
        self, owner: str | None, state: str = "any", cursor: str | None = None, count: int = 50
    ) -> Page:
        """Jobs of `owner` (None: of all), newest first, from `cursor` on, at most `count`.

        `state`: a JobState, `live` (not ended) or `any`. Jobs that appear or change state meanwhile
        neither shift pages nor show up twice. Raises ValueError for a cursor that is none.
        """
        scope, key = _list(owner, state)
        since, after = _position(cursor)
        found: list[tuple[str, float]] = []
        skipped = 0
        while len(found) <= count:
            rows = self._redis.zrevrangebyscore(
                key, since, "-inf", start=skipped, num=count + 1, withscores=True
            )
            # Equal times are in reverse order of their names.
            pairs = [(str(row[0]), float(row[1])) for row in rows]
            found += [(j, s) for j, s in pairs if after is None or (s, j) < after]
            skipped += len(rows)
            if len(rows) <= count:
                break
        page = found[:count]
        more = len(found) > count
        jobs = [job for job, _ in page]
        self._unlist(scope, state, jobs)
        return Page(jobs, f"{page[-1][1]:.0f}-{page[-1][0]}" if more else None)

    def count(self, owner: str | None, state: str = "any") -> int:
        """How many jobs `listed` would give in all."""
        return int(self._redis.zcard(_list(owner, state)[1]))

    def _unlist(self, scope: str, state: str, jobs: Sequence[str]) -> None:
        """Of a page that was read: records expire where no coordinator buries them."""
        pipeline = self._redis.pipeline(transaction=False)
        for job in jobs:
            pipeline.exists(key_of(job))
        found = pipeline.execute() if jobs else []
        gone = [job for job, there in zip(jobs, found, strict=True) if not there]
        if gone:
            self._call("", "unlist", scope, state, *gone)

    def events(self, job: str, after: str | None = None, count: int = 100) -> list[Event]:
        """What happened to the job after the event with id `after` (None: all that is kept).

        Raises ValueError when `after` is no id of an event.
        """
        if after is not None and not EVENT_ID.fullmatch(after):
            raise ValueError(f"not an event: {after!r}")
        start = "-" if after is None else f"({after}"
        rows = self._redis.xrange(f"{key_of(job)}:events", min=start, max="+", count=count)
        return [_event(name, row) for name, row in rows or ()]

    def rate(self, job: str) -> float | None:
        """Frames per second that the latest chunks came with; None while there are too few."""
        rows = self._redis.xrevrange(f"{key_of(job)}:events", count=RATE_EVENTS)
        events = [_event(name, row) for name, row in rows or ()]
        points = [
            (int(event.id.partition("-")[0]), int(event.data.split()[1]))
            for event in events
            if event.kind == "progress"
        ]
        if len(points) < 2:
            return None
        (last_ms, frames), (first_ms, before) = points[0], points[-1]
        return max(0, frames - before) * 1000 / max(1, last_ms - first_ms)


def _event(name: object, row: Mapping[Any, Any] | None) -> Event:
    facts = row or {}
    return Event(str(name), str(facts.get("type", "")), str(facts.get("data", "")))


def _moment(text: str | None) -> int | None:
    return int(float(text)) if text else None


def _list(owner: str | None, state: str) -> tuple[str, str]:
    """Scope and key of a list of jobs; `owner` None: of all."""
    scope = "all" if owner is None else f"of:{owner}"
    return scope, f"{INDEX}list:{scope}:{state}"


def _position(cursor: str | None) -> tuple[float | str, tuple[float, str] | None]:
    """Where a page begins: highest score, and the last entry before it."""
    if cursor is None:
        return "+inf", None
    since, dash, job = cursor.partition("-")
    if not (dash and since.isdecimal() and len(since) < 16):
        raise ValueError(f"not a cursor: {cursor!r}")
    return float(since), (float(since), job)


def _view(job: str, row: Mapping[str, str], lost: Sequence[str]) -> JobView:
    done = [int(row.get(f"frames_{stage}", 0)) for stage in STAGES]
    cpu = {
        key.removeprefix("cpu_ms_"): float(value) / 1000
        for key, value in row.items()
        if key.startswith("cpu_ms_")
    }
    engines = {
        key.removeprefix("engine_"): value
        for key, value in row.items()
        if key.startswith("engine_")
    }
    result = row.get("result")
    spec = JobSpec.read_kept(row["spec"])
    losses = sum_of(lost)
    return JobView(
        job=job,
        state=JobState(row["state"]),
        name=spec.name,
        expected=int(row.get("frames_expected", 0)) - losses.lost - losses.dropped,
        done=(done[0], done[1], done[2], done[3]),
        cpu_s=cpu,
        engines=engines,
        submitted_ms=int(row["submitted_ms"]),
        spec=spec,
        owner=row.get("owner", ""),
        started_ms=_moment(row.get("started_ms")),
        decoding_ms=_moment(row.get("decoding_ms")),
        ended_ms=_moment(row.get("ended_ms")),
        code=row.get("code", ""),
        message=row.get("message", ""),
        result=JobResult.read_kept(result) if result else None,
    )
