"""What the coordinator tells of the whole cluster, from a real Redis."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.stack import STAGES
from services.coordinator.closing import Closing
from services.coordinator.recovery import Recovery
from services.coordinator.sampling import EVERY_S, Sampler
from services.coordinator.telling import Telling
from shared.arena.base import ArenaDescriptor
from shared.arena.registry import ArenaRegistry
from shared.errors import ErrorCode
from shared.jobs import JobState
from shared.ledger import JobResult
from shared.metrics import Meter
from shared.metrics.catalogue import (
    DEAD_LETTERS,
    JOB_IDLE,
    JOB_RATE,
    JOB_SECONDS,
    JOBS,
    JOBS_ENDED,
    LEASE_WAITERS,
    LEASES_CAPACITY,
    LEASES_IN_USE,
    QUEUE_MESSAGES,
    QUEUE_SAMPLES,
    UNACKNOWLEDGED,
    WORKERS,
)
from shared.queues import DeadLetters, make_app
from shared.redisdb import Connection, connect
from shared.workers import PREFIX, WorkerRecord
from tests.builders import job_spec
from tests.metrics.notes import Notes
from tests.runtimes import runtime
from tests.servers import redis_server


def arena(name: str) -> ArenaDescriptor:
    return ArenaDescriptor(
        name=name, generation="g", path="/nowhere", slot_bytes=4096, decoded=3, composed=2
    )


class Setting:
    """A runtime whose meter takes notes, and a clock that is set by hand."""

    def __init__(self, redis: Connection, folder: Path) -> None:
        self.notes, self.now = Notes(), 0.0
        made, _ = runtime(redis, folder)
        self.runtime = replace(made, meter=Meter("coordinator", self.notes))
        self.workers: dict[str, int] = {}
        self.sampler = Sampler(self.runtime, lambda: self.workers, lambda: self.now)

    def sample(self) -> Notes:
        """The notes after the next look."""
        self.now += EVERY_S
        self.sampler.step()
        return self.notes


def test_queues_are_counted_by_name_and_sampled_by_kind(redis: Connection, tmp_path: Path) -> None:
    setting = Setting(redis, tmp_path)
    for name in ("gpu0", "gpu1"):
        ArenaRegistry(redis).publish(arena(name))
    redis.rpush("encode.gpu1", *["message"] * 3)
    redis.rpush("split", "message")
    redis.hset("unacked", "tag", "message")
    notes = setting.sample()
    assert notes.value(QUEUE_MESSAGES, "encode.gpu1") == 3
    assert notes.value(QUEUE_MESSAGES, "encode.gpu0") == 0
    assert notes.value(QUEUE_MESSAGES, "split") == 1
    assert sorted(notes.observed(QUEUE_SAMPLES, "encode")) == [0, 3]
    assert notes.value(UNACKNOWLEDGED) == 1
    redis.delete("encode.gpu1")
    assert setting.sample().value(QUEUE_MESSAGES, "encode.gpu1") == 0


def test_of_an_arena_that_is_gone_nothing_is_told(redis: Connection, tmp_path: Path) -> None:
    setting = Setting(redis, tmp_path)
    registry = ArenaRegistry(redis)
    for name in ("gone", "there"):
        registry.publish(arena(name))
    redis.rpush("encode.gone", *["message"] * 25)
    notes = setting.sample()
    assert notes.value(QUEUE_MESSAGES, "encode.gone") == 25
    registry.withdraw("gone")
    setting.sample()
    left = {labels for (_, labels), value in notes.values.items() if not math.isnan(value)}
    assert not any("gone" in label for labels in left for label in labels)
    assert {("encode.there",), ("decoded", "there"), ("composed", "there")} <= left
    registry.publish(arena("gone"))
    assert setting.sample().value(QUEUE_MESSAGES, "encode.gone") == 25


def test_how_long_jobs_have_not_got_on_is_told_by_state(redis: Connection, tmp_path: Path) -> None:
    setting = Setting(redis, tmp_path)
    ledger = setting.runtime.ledger
    ledger.submit("j", job_spec())
    ledger.due(decoders=1, per_job=1, splits=1, ahead=9, count=9)
    for _ in range(3):
        notes = setting.sample()
    assert notes.value(JOB_IDLE, "splitting") == 2 * EVERY_S
    assert [notes.value(JOB_IDLE, state) for state in ("running", "muxing")] == [0, 0]


def test_leases_are_told_of_by_kind_and_place(redis: Connection, tmp_path: Path) -> None:
    setting = Setting(redis, tmp_path)
    ArenaRegistry(redis).publish(arena("gpu0"))
    leases = setting.runtime.leases
    leases.resize(arena("gpu0").thing("decoded"), 1)
    assert leases.acquire(arena("gpu0").thing("decoded"), "me")
    assert leases.acquire(arena("gpu0").thing("decoded"), "you", wait_s=0.01) is None
    leases.open("sessions:nvenc:GPU-1", 2)
    notes = setting.sample()
    assert notes.value(LEASES_IN_USE, "decoded", "gpu0") == 1
    assert notes.value(LEASES_CAPACITY, "decoded", "gpu0") == 1
    assert notes.value(LEASES_CAPACITY, "composed", "gpu0") == 0
    assert notes.value(LEASE_WAITERS, "decoded", "gpu0") is not None
    assert notes.value(LEASES_CAPACITY, "nvenc", "GPU-1") == 2


def test_jobs_are_counted_by_state_on_their_way(redis: Connection, tmp_path: Path) -> None:
    setting = Setting(redis, tmp_path)
    ledger = setting.runtime.ledger

    def states() -> dict[str, float | None]:
        notes = setting.sample()
        on_the_way = [state.value for state in JobState if not state.ended]
        return {state: notes.value(JOBS, state) for state in on_the_way}

    nothing = {"queued": 0, "splitting": 0, "running": 0, "muxing": 0}
    assert states() == nothing
    ledger.submit("a", job_spec())
    ledger.submit("b", job_spec())
    assert states() == nothing | {"queued": 2}
    assert len(ledger.due(decoders=1, per_job=1, splits=1, ahead=9, count=9)) == 1
    assert states() == nothing | {"queued": 1, "splitting": 1}
    for job in ("a", "b"):
        ledger.fail(job, ErrorCode.INTERNAL, "x")
    assert states() == nothing


def test_dead_letters_and_workers_are_counted_and_a_stage_without_one_shows(
    redis: Connection, tmp_path: Path
) -> None:
    setting = Setting(redis, tmp_path)
    DeadLetters(redis).put("task", "queue", "body", "why")
    setting.workers = {"encode": 2, "coordinator": 1}
    notes = setting.sample()
    assert notes.value(DEAD_LETTERS) == 1
    assert notes.value(WORKERS, "encode") == 2
    assert [notes.value(WORKERS, stage) for stage in STAGES] == [0, 0, 0, 2]


def test_recovery_knows_how_many_workers_live(redis: Connection, tmp_path: Path) -> None:
    setting = Setting(redis, tmp_path)
    for number in range(2):
        record = WorkerRecord(id=f"w{number}", stage="encode", arena="gpu0", pid=1, started=1)
        redis.set(PREFIX + record.id, record.model_dump_json(), ex=60)
    recovery = Recovery(setting.runtime, dispatcher=None)  # type: ignore[arg-type]  # no job needs it
    recovery.step()
    assert recovery.workers == {"encode": 2}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Connection]:
    """To a server that nobody else asks: services that other tests share look at theirs now and
    then, whatever test is at work."""
    with redis_server(tmp_path) as url:
        connection = connect(url)
        yield connection
        connection.close()


def test_what_it_costs_does_not_depend_on_the_number_of_jobs(
    alone: Connection, tmp_path: Path
) -> None:
    setting = Setting(alone, tmp_path)
    ArenaRegistry(alone).publish(arena("gpu0"))

    def counted() -> Counter[str]:
        told = alone.info("commandstats")
        calls = Counter({name: int(facts["calls"]) for name, facts in told.items()})
        del calls["cmdstat_ping"], calls["cmdstat_info"]  # a connection's own; this question
        return calls

    def commands() -> Counter[str]:
        before = counted()
        setting.sample()
        return counted() - before

    setting.sample()  # its scripts are known from here on
    few = commands()
    assert few
    for number in range(100):
        setting.runtime.ledger.submit(f"job{number}", job_spec())
    assert commands() == few


def test_between_two_looks_nothing_is_asked(redis: Connection, tmp_path: Path) -> None:
    setting = Setting(redis, tmp_path)
    setting.sample()
    ArenaRegistry(redis).publish(arena("gpu0"))
    setting.now += EVERY_S / 2
    setting.sampler.step()
    assert setting.notes.value(QUEUE_MESSAGES, "encode.gpu0") is None


def test_a_job_that_ended_is_counted_once_with_its_code(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    setting = Setting(redis, tmp_path)
    ledger = setting.runtime.ledger
    closing = Closing(setting.runtime, Telling(ledger, make_app(redis_url)))
    for job in ("good", "bad"):
        ledger.submit(job, job_spec())
    # It waited for a thousand seconds, then its frames took ten.
    redis.hset("df:job:good", mapping={"submitted_ms": 1, "decoding_ms": 1_000_001})
    ledger.finish("good", JobResult(key="k", frames=100))
    ledger.fail("bad", ErrorCode.NOT_A_VIDEO, "It is a poem.")
    redis.hset("df:job:good", "ended_ms", 1_010_001)
    for _ in range(3):
        closing.step()
    notes = setting.notes
    assert notes.sum(JOBS_ENDED, "succeeded", "ok") == 1
    assert notes.sum(JOBS_ENDED, "failed", "not_a_video") == 1
    assert notes.observed(JOB_SECONDS) == [1010]
    assert notes.observed(JOB_RATE) == [10]
