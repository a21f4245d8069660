"""Facts about the cost of long queues, counted in the server's commands, and about its indexes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from services.coordinator.closing import Closing
from services.coordinator.telling import Telling
from shared.errors import ErrorCode
from shared.jobs import JobState
from shared.ledger import ChunkRecord, JobResult, Ledger, Losses
from shared.messages import SegmentMessage
from shared.queues import make_app
from shared.redisdb import Connection
from shared.runtime import Runtime
from tests.builders import batch_message, job_spec, output_plan, segment, source_info
from tests.coordinator.fleet import fleet_of
from tests.runtimes import runtime

NONE = Losses(0, 0, 0, 0)


@pytest.fixture
def made(redis: Connection, tmp_path: Path) -> Runtime:
    return runtime(redis, tmp_path)[0]


def open_job(ledger: Ledger, job: str, segments: int) -> None:
    """A job that was split, whether it was its turn or not."""
    ledger.submit(job, job_spec())
    ledger.take(job, "split", "w")
    ledger.put_facts(job, source_info(), output_plan(), 8)
    for index in range(segments):
        ledger.add_segment(job, segment(index))
    ledger.split_done(job, segments, 10 * segments)
    ledger.let_go(job, "split", "w")


def cost(redis: Connection, action: Callable[[], object]) -> tuple[int, int]:
    """Commands that the server ran for `action`, those inside scripts too, and KiB answered."""

    def look() -> tuple[int, int]:
        stats = redis.info("commandstats")
        calls = sum(row["calls"] for name, row in stats.items() if name != "cmdstat_info")
        return calls, redis.info("stats")["total_net_output_bytes"]

    # What looking answers is measured, and taken off.
    first = look()
    second = look()
    action()
    third = look()
    calls = third[0] - second[0] - (second[0] - first[0])
    return calls, (third[1] - second[1] - (second[1] - first[1])) // 1024


def test_no_step_of_the_coordinator_costs_more_with_a_thousand_jobs_than_with_ten(
    made: Runtime, redis: Connection, redis_url: str
) -> None:
    fleet, dispatcher, behind = fleet_of(made)
    closing = Closing(behind, Telling(behind.ledger, make_app(redis_url)), clock=lambda: 0.0)
    ledger, costs, there = made.ledger, [], 0
    for jobs in (10, 1000):
        for number in range(there, jobs):
            ledger.submit(f"queued{number}", job_spec())
            open_job(ledger, f"open{number}", 5)
        there = jobs
        dispatcher.step()  # the first one of a coordinator has more to do

        def submit(jobs: int = jobs) -> None:
            ledger.submit(f"one more of {jobs}", job_spec())

        def serve() -> None:
            (message,) = (each for _, each in fleet.pending if isinstance(each, SegmentMessage))
            ledger.segment_done(message.job, message.segment.index, message.attempt, 0, NONE)
            dispatcher.step()

        found = [
            cost(redis, action)
            for action in (submit, dispatcher.step, serve, lambda: ledger.page(5, 5), closing.step)
        ]
        costs.append(found)
        fleet.pending.clear()
        fleet.ledger.return_segment("open0", 0, 1, gave_back=True)
        for job in [job for job in ledger.open(0, 2000) if ledger.running(job)]:
            for index, attempt in ledger.running(job).items():
                ledger.segment_done(job, index, attempt, 0, NONE)
    for few, many in zip(*costs, strict=True):
        assert many[0] <= few[0] + 20
        assert many[1] <= few[1] + 2


def test_pages_of_live_jobs_hold_each_once_oldest_first(made: Runtime) -> None:
    names = [f"job{number:03d}" for number in range(25)]
    for name in names:
        made.ledger.submit(name, job_spec(name=name))
    pages = [made.ledger.page(start, 10) for start in range(0, 40, 10)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert [view.job for page in pages for view in page] == made.ledger.live() == names
    assert pages[0][3].name == "job003"
    assert pages[0][3].state is JobState.QUEUED


def indexes(redis: Connection) -> list[object]:
    """Every index but what only goes one way: clock, changes, muxes that are due."""
    pipeline = redis.pipeline()
    for name in ("queued", "open", "splitting", "ahead", "ready", "muxing"):
        pipeline.zrange(f"df:index:{name}", 0, -1, withscores=True)
    pipeline.hgetall("df:index:busy")
    return list(pipeline.execute())


class Anything:
    """Does what workers and clients may do, at random, late and double too."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger = ledger
        self.random = random.Random(seed)
        self.jobs = [f"j{number}" for number in range(2)]

    def _submit(self, job: str) -> None:
        if self.ledger.is_ending(job):
            self.ledger.cleaned(job)
        self.ledger.submit(job, job_spec(priority=self.random.randrange(10)))

    def one(self) -> None:
        """One operation on one job."""
        pick, ledger = self.random.choice, self.ledger
        job, index = pick(self.jobs), self.random.randrange(2)
        name = f"{index}:0"
        attempt = ledger.running(job).get(index, 1)
        decoded = batch_message(name, job=job)
        composed = batch_message(name, job=job, pool="composed")
        chunk = ChunkRecord(key=name, pts=(0, 1, 2), size_bytes=1)
        actions: list[Callable[[], object]] = [
            lambda: self._submit(job),
            lambda: ledger.take(job, pick(("split", "mux", f"segment:{index}")), "w"),
            lambda: (
                ledger.put_facts(job, source_info(), output_plan(), 8)
                and ledger.add_segment(job, segment(index))
            ),
            lambda: ledger.split_done(job, 2, 20),
            lambda: ledger.due(decoders=2, per_job=1, splits=2, ahead=2, count=3),
            lambda: ledger.take_segment(job, 2),
            lambda: ledger.return_segment(job, index, attempt, gave_back=pick((True, False))),
            lambda: ledger.segment_done(job, index, attempt, 1, NONE),
            lambda: ledger.send(decoded, "infer", "w"),
            lambda: ledger.send(composed, "encode", "w"),
            lambda: ledger.forget_batch(pick((decoded, composed))),
            lambda: ledger.chunk_done(composed, chunk),
            lambda: ledger.let_go(job, pick(("split", "mux", name)), "w"),
            lambda: ledger.changed(1),
            ledger.unclaimed,
        ]
        if self.random.random() < 0.03:
            actions = [
                lambda: ledger.finish(job, JobResult(key="k", frames=1)),
                lambda: ledger.fail(job, ErrorCode.TOO_DAMAGED, "broken"),
                lambda: ledger.fail(job, ErrorCode.CANCELLED, "enough"),
                lambda: ledger.cleaned(job),
                lambda: ledger.bury(job),
            ]
        pick(actions)()


@pytest.mark.parametrize("seed", range(6))
def test_indexes_say_what_the_jobs_say_whatever_was_done(redis: Connection, seed: int) -> None:
    ledger = Ledger(redis, retention_s=60, attempts=1000)
    anything = Anything(ledger, seed)
    for _ in range(400):
        anything.one()
        before = indexes(redis)
        ledger.mend(0, 100)
        assert indexes(redis) == before
    for job in anything.jobs:
        if not ledger.is_ending(job):
            ledger.submit(job, job_spec())
            ledger.fail(job, ErrorCode.CANCELLED, "enough")
    assert not any(indexes(redis))
    assert ledger.changed(100) == []
