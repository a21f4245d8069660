"""Facts about what stays of ended jobs, for how long, and about who removes what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from celery import Celery

from services.coordinator.closing import (
    CLEANED_AT_ONCE,
    ORPHAN_AGE_S,
    ORPHANS_EVERY_S,
    SWEEP_EVERY_S,
    SWEPT_AT_ONCE,
    TELL_EVERY_S,
    TOLD_AT_ONCE,
    Closing,
)
from services.coordinator.telling import Telling
from shared.errors import ErrorCode, TemporaryError
from shared.jobs import JobState
from shared.ledger import JobResult
from shared.queues import make_app
from shared.redisdb import Connection
from shared.runtime import Runtime, slot_ref
from shared.storage.base import ObjectStore
from tests.builders import batch_message, job_spec, output_plan, segment, source_info
from tests.coordinator.fleet import fleet_of, run
from tests.runtimes import runtime

RETENTION_S = 60
NAMES = ("source.mp4", "segments/000000.nut", "chunks/000000-000000.nut", "result.mp4")


@dataclass
class Clock:
    """Seconds as the test says."""

    now: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def made(redis: Connection, tmp_path: Path) -> Runtime:
    return runtime(redis, tmp_path, retention_s=RETENTION_S)[0]


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    made = make_app(redis_url)
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def closing(made: Runtime, app: Celery, clock: Clock) -> Closing:
    return Closing(made, Telling(made.ledger, app), clock)


def put(made: Runtime, job: str, *names: str) -> None:
    """Objects of a job in the store."""
    for name in names:
        with made.store.scratch() as folder:
            (folder / "x").write_bytes(b"x")
            made.store.put(f"jobs/{job}/{name}", folder / "x")


def objects(made: Runtime, job: str) -> set[str]:
    return {key.removeprefix(f"jobs/{job}/") for key in made.store.keys(f"jobs/{job}")}


def end(made: Runtime, job: str, state: JobState) -> None:
    """A job with objects of every kind that has just ended like this."""
    ledger = made.ledger
    ledger.submit(job, job_spec())
    ledger.take(job, "split", "w")
    ledger.add_segment(job, segment(0))
    put(made, job, *NAMES)
    if state is JobState.SUCCEEDED:
        ledger.finish(job, JobResult(key=f"jobs/{job}/result.mp4", frames=3))
    elif state is JobState.FAILED:
        ledger.fail(job, ErrorCode.TOO_DAMAGED, "Broken.")
    else:
        ledger.fail(job, ErrorCode.CANCELLED, "Enough.")


def age(redis: Connection, seconds: int = RETENTION_S) -> None:
    """All ended jobs ended so much earlier."""
    for job in redis.zrange("df:index:kept", 0, -1):
        redis.zincrby("df:index:kept", -1000 * seconds, job)


def sweep(closing: Closing, clock: Clock, after_s: float = SWEEP_EVERY_S) -> None:
    clock.now += after_s
    closing.step()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_what_stays_of_a_job_goes_with_its_record_when_the_time_is_over(
    made: Runtime, app: Celery, redis: Connection, clock: Clock, state: JobState, keep: bool
) -> None:
    settings = made.settings.model_copy(update={"keep_sources": keep})
    closing = Closing(replace(made, settings=settings), Telling(made.ledger, app), clock)
    stays = {JobState.SUCCEEDED: {"result.mp4"}, JobState.FAILED: {"source.mp4"}}.get(state, set())
    if keep and state is JobState.SUCCEEDED:
        stays = {"result.mp4", "source.mp4"}
    end(made, "j", state)
    closing.step()
    assert objects(made, "j") == stays
    assert made.ledger.ended() == []
    age(redis, RETENTION_S - 30)
    sweep(closing, clock)
    assert objects(made, "j") == stays
    assert made.ledger.state("j") is state
    age(redis, 30)
    sweep(closing, clock)
    assert objects(made, "j") == set()
    assert made.ledger.view("j") is None
    assert redis.keys("df:job:*") == []
    assert redis.keys("df:index:kept") == []


class Stubborn:
    """A store in which the coordinator dies: before or after an object is deleted."""

    def __init__(self, store: ObjectStore, at: int, *, after: bool) -> None:
        self._store = store
        self._left = at
        self._after = after

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def delete(self, prefix: str) -> int:
        """As the store does, but once."""
        self._left -= 1
        if self._left == 0 and not self._after:
            raise KeyboardInterrupt
        count = self._store.delete(prefix)
        if self._left == 0:
            raise KeyboardInterrupt
        return count


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_coordinator_that_dies_while_it_removes_leaves_the_rest_to_its_successor(
    made: Runtime, app: Celery, redis: Connection, clock: Clock, at: int, after: bool
) -> None:
    end(made, "j", JobState.SUCCEEDED)
    telling = Telling(made.ledger, app)
    dying = replace(made, store=Stubborn(made.store, at, after=after))  # type: ignore[arg-type]
    first = Closing(dying, telling, clock)

    def remove() -> None:
        """Three deletions at the end of a job, one at its burial."""
        first.step()
        age(redis)
        sweep(first, clock)

    with pytest.raises(KeyboardInterrupt):
        remove()
    # As long as there is an object, a record says so.
    assert made.ledger.state("j") is JobState.SUCCEEDED
    second = Closing(made, telling, clock)
    second.step()
    assert not made.ledger.is_ending("j")
    age(redis)
    sweep(second, clock)
    assert list(made.store.keys("jobs")) == []
    assert redis.keys("df:job:*") == []


def test_a_job_that_is_submitted_again_is_not_buried(
    made: Runtime, closing: Closing, redis: Connection, clock: Clock
) -> None:
    end(made, "j", JobState.FAILED)
    closing.step()
    age(redis)
    made.ledger.submit("j", job_spec())
    put(made, "j", "source.mp4")
    sweep(closing, clock)
    assert not made.ledger.bury("j")
    assert not made.ledger.cleaned("j")
    assert made.ledger.state("j") is JobState.QUEUED
    assert objects(made, "j") == {"source.mp4"}


class Retrying:
    """A store in which somebody tries a job again whenever an object is deleted."""

    def __init__(self, made: Runtime) -> None:
        self._made = made
        self.refused = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._made.store, name)

    def delete(self, prefix: str) -> int:
        """As the store does."""
        with pytest.raises(TemporaryError):
            self._made.ledger.submit(prefix.split("/")[1], job_spec())
        self.refused += 1
        return self._made.store.delete(prefix)


def test_a_job_is_not_tried_again_while_its_source_goes(
    made: Runtime, app: Celery, redis: Connection, clock: Clock
) -> None:
    for job in ("j", "k"):
        end(made, job, JobState.FAILED)
    store = Retrying(made)
    behind = replace(made, store=store)  # type: ignore[arg-type]
    closing = Closing(behind, Telling(made.ledger, app), clock)
    closing.step()
    age(redis)
    before = store.refused
    sweep(closing, clock)
    assert store.refused == before + 2
    assert made.ledger.submit("j", job_spec()) is JobState.QUEUED
    assert made.ledger.ended() == []


def test_slots_are_free_and_users_told_before_a_store_has_deleted_what_jobs_left(
    made: Runtime, app: Celery, clock: Clock
) -> None:
    made.leases.resize("slots:cpu0:decoded", 3)
    for number in range(3):
        job = f"j{number}"
        lease = made.leases.acquire("slots:cpu0:decoded", f"{job}/0:0")
        assert lease is not None
        slot = slot_ref("cpu0", "g", "decoded", lease)
        made.ledger.submit(job, job_spec())
        message = batch_message(job=job).model_copy(update={"slot": slot})
        made.ledger.send(message, "infer", "w")
        made.ledger.fail(job, ErrorCode.TOO_DAMAGED, "Broken.")
        put(made, job, "chunks/000000-000000.nut")
    slow = replace(made, store=Slow(made.store, clock))  # type: ignore[arg-type]
    closing = Closing(slow, Telling(made.ledger, app), clock)
    for left in (2, 1):
        assert closing.step()
        assert made.leases.look("slots:cpu0:decoded").used == 0
        assert [app.AsyncResult(f"j{number}").state for number in range(3)] == ["FAILURE"] * 3
        assert len(made.ledger.ended()) == left
    assert not closing.step()
    assert made.ledger.ended() == []


class Slow:
    """A store that takes a minute for each deletion."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def delete(self, prefix: str) -> int:
        """As the store does."""
        self._clock.now += 60
        return self._store.delete(prefix)


def test_a_job_that_its_client_removed_is_not_looked_for(
    made: Runtime, closing: Closing, redis: Connection, clock: Clock
) -> None:
    """The client may be about to submit it anew: its source is there, its record is not yet."""
    end(made, "j", JobState.SUCCEEDED)
    closing.step()
    made.ledger.drop("j")
    assert redis.keys("df:index:kept") == []
    redis.zadd("df:index:kept", {"j": 0})  # as if it had been dropped by an older release
    put(made, "j", "source.mp4")
    sweep(closing, clock)
    assert "source.mp4" in objects(made, "j")
    assert redis.keys("df:index:kept") == []


def test_many_ended_jobs_are_cleaned_up_and_buried_in_slices(
    made: Runtime, closing: Closing, redis: Connection, clock: Clock
) -> None:
    jobs = SWEPT_AT_ONCE + 8
    for number in range(jobs):
        made.ledger.submit(f"j{number}", job_spec())
        made.ledger.fail(f"j{number}", ErrorCode.CANCELLED, "Enough.")
    for left in range(jobs, -1, -CLEANED_AT_ONCE):
        assert len(made.ledger.ended()) == left
        # Nobody waits for the next slice.
        assert closing.step() == (left >= CLEANED_AT_ONCE)
    assert made.ledger.ended() == []
    age(redis)
    for left in (jobs, jobs - SWEPT_AT_ONCE, 0):
        assert redis.zcard("df:index:kept") == left
        sweep(closing, clock)


def test_objects_of_no_job_go_when_they_have_been_seen_for_an_hour(
    made: Runtime, closing: Closing, clock: Clock
) -> None:
    put(made, "orphan", *NAMES)
    put(made, "adopted", "source.mp4")
    put(made, "live", "source.mp4")
    made.ledger.submit("live", job_spec())
    sweep(closing, clock)
    assert objects(made, "orphan") == set(NAMES)
    sweep(closing, clock, ORPHANS_EVERY_S)
    for _ in range(int(ORPHAN_AGE_S / ORPHANS_EVERY_S) - 1):
        sweep(closing, clock, ORPHANS_EVERY_S)
        assert objects(made, "orphan") == set(NAMES)
    made.ledger.submit("adopted", job_spec())
    sweep(closing, clock, ORPHANS_EVERY_S)
    assert objects(made, "orphan") == set()
    assert objects(made, "adopted") == {"source.mp4"}
    assert objects(made, "live") == {"source.mp4"}


def test_an_orphan_that_found_a_job_meanwhile_is_counted_anew(
    made: Runtime, closing: Closing, clock: Clock
) -> None:
    put(made, "j", "source.mp4")
    sweep(closing, clock, ORPHANS_EVERY_S)
    made.ledger.submit("j", job_spec())
    sweep(closing, clock, ORPHANS_EVERY_S)
    made.ledger.fail("j", ErrorCode.TOO_DAMAGED, "Broken.")
    closing.step()
    made.ledger.drop("j")
    sweep(closing, clock, ORPHAN_AGE_S)
    assert objects(made, "j") == {"source.mp4"}
    sweep(closing, clock, ORPHAN_AGE_S)
    assert objects(made, "j") == set()


ALLOWED = {
    "df:arenas": "the arena's owner withdraws itself",
    "df:index:attempt": "one number, counted on for all jobs there ever were",
    "df:index:clock": "one hash of a dozen numbers for all jobs there ever were",
    "df:lease:slots:cpu0:decoded:meta": "capacity and fencing token of the pool",
    "df:wake": "one element, popped by the coordinator",
}


def test_no_key_stays_that_has_no_owner_and_does_not_expire(
    made: Runtime, app: Celery, redis: Connection, clock: Clock
) -> None:
    fleet, dispatcher, behind = fleet_of(made)
    closing = Closing(behind, Telling(behind.ledger, app), clock)
    made.leases.resize("slots:cpu0:decoded", 3)
    for number, priority in enumerate((0, 5, 9)):
        fleet.submit(f"done{number}", 3, priority)
    run(fleet, dispatcher, lambda: len(fleet.ended) == 3)
    fleet.submit("broken", 3)
    fleet.submit("unwanted", 3)
    run(fleet, dispatcher, lambda: len(fleet.splits) == 5)
    lease = made.leases.acquire("slots:cpu0:decoded", "broken/0:0")
    assert lease is not None
    slot = batch_message().slot.model_copy(
        update={"token": lease.token, "slot": lease.unit, "holder": lease.holder}
    )
    made.ledger.send(batch_message(job="broken").model_copy(update={"slot": slot}), "infer", "w")
    sweep(closing, clock, TELL_EVERY_S)
    made.ledger.fail("broken", ErrorCode.TOO_DAMAGED, "Broken.")
    made.ledger.fail("unwanted", ErrorCode.CANCELLED, "Enough.")
    dispatcher.step()
    closing.step()
    keys = {str(key) for key in redis.scan_iter()}
    lasting = {key for key in keys if redis.ttl(key) == -1}
    lists = {key for key in lasting if key.startswith("df:index:list:")}
    assert lasting - lists <= {*ALLOWED, "df:index:kept"}
    # Records first expire by themselves long after they are to be buried.
    assert all(redis.ttl(key) > RETENTION_S for key in keys if key.startswith("df:job:"))
    age(redis)
    sweep(closing, clock)
    assert {str(key) for key in redis.scan_iter() if redis.ttl(key) == -1} <= set(ALLOWED)
    assert redis.keys("df:job:*") == []


def test_progress_is_told_of_jobs_that_changed_each_in_its_turn(
    made: Runtime, closing: Closing, clock: Clock, app: Celery
) -> None:
    ledger = made.ledger
    jobs = [f"j{number:02d}" for number in range(TOLD_AT_ONCE + 3)]
    for job in jobs:
        ledger.submit(job, job_spec())
        ledger.put_facts(job, source_info(), output_plan(), 8)
    sweep(closing, clock, TELL_EVERY_S)
    states = [app.AsyncResult(job).state for job in jobs]
    assert states.count("PROGRESS") == TOLD_AT_ONCE
    closing.step()
    assert [app.AsyncResult(job).state for job in jobs] == states
    ledger.take(jobs[0], "split", "w")
    sweep(closing, clock, TELL_EVERY_S)
    assert {app.AsyncResult(job).state for job in jobs} == {"PROGRESS"}
    assert app.AsyncResult(jobs[0]).result["state"] == JobState.SPLITTING
    assert ledger.changed(100) == []
