"""Facts about who is served when: real ledger, real dispatcher, workers that do nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from services.coordinator.dispatch import Dispatcher
from shared.messages import Message
from shared.redisdb import Connection
from shared.runtime import Runtime
from tests.coordinator.fleet import fleet_of, run
from tests.runtimes import Recorder, runtime


@pytest.fixture
def made(redis: Connection, tmp_path: Path) -> Runtime:
    return runtime(redis, tmp_path)[0]


def test_a_job_of_one_segment_behind_ten_of_500_ends_before_a_twentieth_of_theirs(
    made: Runtime,
) -> None:
    fleet, dispatcher, _ = fleet_of(made)
    for number in range(10):
        fleet.submit(f"long{number}", 500)
    run(fleet, dispatcher, lambda: len(fleet.splits) == 10 and len(fleet.served) >= 55)
    before = len(fleet.served)
    fleet.submit("short", 1)
    run(fleet, dispatcher, lambda: "short" in fleet.ended)
    assert len(fleet.served) < 0.05 * 5000
    # One round of the others at most.
    assert fleet.served.index("short") - before <= 11


@pytest.mark.parametrize("arenas", [1, 3])
def test_priority_9_gets_ten_times_what_priority_0_gets(made: Runtime, arenas: int) -> None:
    # As many decoders as one job may have: with more, none of them is scarce for a job of two.
    settings = made.settings.model_copy(update={"segments_in_flight": arenas})
    fleet, dispatcher, _ = fleet_of(replace(made, settings=settings), arenas)
    fleet.submit("high", 400, priority=9)
    fleet.submit("low", 400, priority=0)
    run(fleet, dispatcher, lambda: len(fleet.splits) == 2)
    start = len(fleet.served)
    run(fleet, dispatcher, lambda: len(fleet.served) - start >= 330)
    served = fleet.served[start:]
    assert 9 <= served.count("high") / served.count("low") <= 11


def test_every_priority_gets_its_share_of_decoders_and_of_splits(made: Runtime) -> None:
    fleet, dispatcher, _ = fleet_of(made)
    for number in range(60):
        for priority in (0, 4, 9):
            fleet.submit(f"{priority}-{number:02d}", 1, priority)
    run(fleet, dispatcher, lambda: len(fleet.splits) >= 64)
    split = [job[0] for job in fleet.splits[:64]]
    assert abs(split.count("9") - 40) <= 1
    assert abs(split.count("4") - 20) <= 1
    assert abs(split.count("0") - 4) <= 1


def test_priority_0_is_served_in_bounded_time_under_an_endless_stream_of_priority_9(
    made: Runtime,
) -> None:
    ahead = 4
    settings = made.settings.model_copy(update={"jobs_ahead": ahead})
    fleet, dispatcher, _ = fleet_of(replace(made, settings=settings))
    for number in range(100):
        fleet.submit(f"first{number:03d}", 1, priority=9)
    fleet.submit("low", 6, priority=0)
    seen = 0

    def stream() -> bool:
        nonlocal seen
        while seen < len(fleet.served):
            fleet.submit(f"new{seen:04d}", 1, priority=9)
            seen += 1
        return "low" in fleet.ended

    run(fleet, dispatcher, stream)
    # A weight of 1 beside at most `ahead` jobs of weight 10 each, the length of the queue is
    # nothing to it; its split waits for ten others and itself.
    assert fleet.splits.index("low") <= 11
    times = [at for at, job in enumerate(fleet.served) if job == "low"]
    assert max(after - before for before, after in pairwise([0, *times])) <= 10 * ahead + 11


def test_a_job_that_waited_for_its_split_does_not_make_up_for_it(made: Runtime) -> None:
    fleet, dispatcher, _ = fleet_of(made)
    fleet.submit("old", 200)
    run(fleet, dispatcher, lambda: len(fleet.served) == 100)
    fleet.submit("new", 200)
    run(fleet, dispatcher, lambda: len(fleet.served) == 121)
    assert abs(fleet.served[101:].count("new") - 10) <= 1


def test_a_job_at_its_bound_takes_nothing_of_the_others(made: Runtime) -> None:
    fleet, dispatcher, _ = fleet_of(made, arenas=4)
    for job in ("a", "b", "c"):
        fleet.submit(job, 20)
    run(fleet, dispatcher, lambda: len(fleet.splits) == 3)
    dispatcher.step()
    ledger = made.ledger
    running = [len(ledger.running(job)) for job in ("a", "b", "c")]
    assert sum(running) == 4
    assert max(running) <= made.settings.segments_in_flight


def test_a_restarted_coordinator_goes_on_where_fairness_stood(
    made: Runtime, redis: Connection
) -> None:
    orders = []
    for restarts in (False, True):
        redis.flushall()
        fleet, dispatcher, behind = fleet_of(made)
        for number, priority in enumerate((9, 0, 5, 5)):
            fleet.submit(f"job{number}", 40, priority)
        while len(fleet.ended) < 4:
            dispatcher.step()
            fleet.work()
            if restarts:
                dispatcher = Dispatcher(behind)
        orders.append(fleet.served)
    assert orders[0] == orders[1]


def test_a_thousand_queued_jobs_hold_up_a_more_urgent_one_by_no_more_than_what_is_split_now(
    made: Runtime,
) -> None:
    fleet, dispatcher, _ = fleet_of(made)
    for number in range(1000):
        fleet.submit(f"job{number:04d}", 2)
    run(fleet, dispatcher, lambda: len(fleet.splits) == 30)
    fleet.submit("urgent", 1, priority=9)
    run(fleet, dispatcher, lambda: "urgent" in fleet.ended)
    assert fleet.splits.index("urgent") <= 31
    assert len(fleet.splits) <= 40


def test_jobs_are_split_oldest_first(made: Runtime) -> None:
    fleet, dispatcher, _ = fleet_of(made)
    names = [f"job{number:02d}" for number in range(20)]
    for name in names:
        fleet.submit(name, 1)
    run(fleet, dispatcher, lambda: len(fleet.ended) == 20)
    assert fleet.splits == names


def test_no_more_jobs_are_split_ahead_than_the_setting_says(made: Runtime) -> None:
    """With nobody to decode, the store holds the segments of so many jobs of each priority."""
    settings = made.settings.model_copy(update={"jobs_ahead": 3})
    fleet, dispatcher, _ = fleet_of(replace(made, settings=settings), arenas=0)
    for number in range(50):
        fleet.submit(f"job{number:02d}", 2)
    fleet.submit("urgent", 2, priority=9)
    for _ in range(30):
        dispatcher.step()
        fleet.work()
    assert sorted(fleet.splits) == ["job00", "job01", "job02", "urgent"]


def test_a_segment_that_later_ones_at_decoders_wait_for_goes_beside_them(made: Runtime) -> None:
    """They may hold all slots that are not kept for it, and the only decoder."""
    fleet, dispatcher, _ = fleet_of(made)
    fleet.submit("j", 4)
    run(fleet, dispatcher, lambda: fleet.splits == ["j"])
    taken = [made.ledger.take_segment("j", 2), made.ledger.take_segment("j", 2)]
    assert None not in taken
    dispatcher.step()
    assert not fleet.pending
    made.ledger.return_segment("j", 0, 1, gave_back=False)
    dispatcher.step()
    dispatcher.step()
    assert [message.item for _, message in fleet.pending] == ["segment:0"]
    assert set(made.ledger.running("j")) == {0, 1}


class DyingError(Exception):
    """The coordinator ends here."""


class Dying:
    """An outbox that loses what it is given, and its process."""

    def send(self, task: str, message: Message, queue: str) -> None:  # noqa: ARG002
        """Die."""
        raise DyingError


@pytest.mark.parametrize("stage", ["split", "mux"])
def test_what_a_dead_coordinator_had_taken_is_sent_by_its_successor(
    made: Runtime, stage: str
) -> None:
    fleet, dispatcher, _ = fleet_of(made)
    fleet.submit("j", 1)
    if stage == "mux":
        run(fleet, dispatcher, lambda: fleet.served == ["j"])
    dying = Dispatcher(replace(made, outbox=Dying()))
    with pytest.raises(DyingError):
        dying.step()
    recorder = Recorder()
    heir = Dispatcher(replace(made, outbox=recorder))
    heir.step()
    heir.step()
    assert [item for _, item, _ in recorder.take()] == [f"j/{stage}"]


def test_a_job_that_is_not_admitted_yet_is_not_sent_again(made: Runtime) -> None:
    fleet, dispatcher, _ = fleet_of(made)
    for job in ("a", "b"):
        fleet.submit(job, 1)
    dispatcher.step()
    for job in ("a", "b"):
        dispatcher.send_split(job, again=True)
    assert [message.job for _, message in fleet.pending] == ["a", "a"]
    assert made.ledger.open(0, 10) == ["a"]


def test_jobs_of_a_release_without_indexes_are_found(made: Runtime, redis: Connection) -> None:
    fleet, dispatcher, behind = fleet_of(made)
    fleet.submit("running", 3)
    run(fleet, dispatcher, lambda: len(fleet.served) == 1)
    for job in ("a", "b"):
        fleet.submit(job, 1)
    redis.delete(*redis.scan_iter("df:index:*"))
    redis.hdel("df:job:a", "priority", "placed", "shown")
    run(fleet, Dispatcher(behind), lambda: len(fleet.ended) == 3)


def test_a_record_that_somebody_removed_stops_nobody(made: Runtime, redis: Connection) -> None:
    fleet, dispatcher, behind = fleet_of(made)
    fleet.submit("gone", 3)
    fleet.submit("queued", 3)
    run(fleet, dispatcher, lambda: len(fleet.served) == 1)
    fleet.submit("here", 3)
    redis.delete("df:job:gone", "df:job:queued")
    run(fleet, Dispatcher(behind), lambda: "here" in fleet.ended)
    Dispatcher(behind).step()
    assert made.ledger.live() == []
    assert not redis.exists("df:index:ready", "df:index:open", "df:index:queued")
