"""Facts about dispatch, recovery and cleaning up, on a real server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services.coordinator.closing import Closing
from services.coordinator.dispatch import Dispatcher
from services.coordinator.recovery import EVERY_S, Recovery
from services.coordinator.telling import Telling
from shared.arena.base import ArenaDescriptor
from shared.arena.registry import ArenaRegistry
from shared.errors import ErrorCode, TemporaryError
from shared.jobs import JobState
from shared.ledger import ChunkRecord, JobResult, Losses
from shared.messages import BatchMessage, Message
from shared.queues import make_app
from shared.redisdb import Connection, RedisError
from shared.runtime import Runtime, slot_ref
from shared.workers import PREFIX
from tests.builders import batch_message, job_spec, output_plan, segment, source_info
from tests.runtimes import Recorder, runtime

ARENA = ArenaDescriptor(
    name="cpu0", generation="g", path="/nowhere", slot_bytes=4096, decoded=3, composed=2
)


@pytest.fixture
def parts(redis: Connection, tmp_path: Path) -> tuple[Runtime, Recorder, Dispatcher]:
    made, outbox = runtime(redis, tmp_path)
    ArenaRegistry(redis).publish(ARENA)
    for pool in ("decoded", "composed"):
        made.leases.resize(f"slots:cpu0:{pool}", 3)
    return made, outbox, Dispatcher(made)


def split(parts: tuple[Runtime, Recorder, Dispatcher], job: str, segments: int) -> None:
    """A job whose source has been split."""
    ledger = parts[0].ledger
    ledger.submit(job, job_spec())
    ledger.take(job, "split", "w")
    ledger.put_facts(job, source_info(), output_plan(), 8)
    for index in range(segments):
        ledger.add_segment(job, segment(index))
    ledger.split_done(job, segments, 10 * segments)
    ledger.let_go(job, "split", "w")


def fly(made: Runtime, job: str, name: str, stage: str) -> BatchMessage:
    """A batch of `job` on its way to `stage`, in a leased slot."""
    pool = "composed" if stage == "encode" else "decoded"
    lease = made.leases.acquire(f"slots:cpu0:{pool}", f"{job}/{name}")
    assert lease is not None
    ref = slot_ref("cpu0", "g", "composed" if stage == "encode" else "decoded", lease)
    message = batch_message(name, job=job).model_copy(update={"slot": ref})
    assert made.ledger.send(message, stage, "w") == "go"
    return message


def impatient(made: Runtime) -> Runtime:
    """Sends again what nobody took up at the first look."""
    settings = made.settings.model_copy(update={"unclaimed_after_s": 0.0})
    return replace(made, settings=settings)


def test_a_new_job_is_split_once(parts: tuple[Runtime, Recorder, Dispatcher]) -> None:
    made, outbox, dispatcher = parts
    made.ledger.submit("j", job_spec())
    dispatcher.step()
    dispatcher.step()
    assert outbox.take() == [("decode.split", "j/split", "split")]


def test_no_more_segments_are_out_than_there_are_decoders(
    parts: tuple[Runtime, Recorder, Dispatcher],
) -> None:
    _, outbox, dispatcher = parts
    split(parts, "j", 5)
    dispatcher.step()
    dispatcher.step()
    assert outbox.take() == [("decode.segment", "j/segment:0", "decode.cpu0")]


def test_a_short_job_behind_long_ones_is_served_among_the_first(
    parts: tuple[Runtime, Recorder, Dispatcher],
) -> None:
    made, outbox, dispatcher = parts
    for number in range(10):
        split(parts, f"long{number}", 50)
    order = []
    for turn in range(40):
        if turn == 10:
            split(parts, "short", 1)
        dispatcher.step()
        for task, item, _ in outbox.take():
            if task == "decode.segment":
                job, _, index = item.replace("/segment:", " ").partition(" ")
                order.append(job)
                attempt = made.ledger.running(job)[int(index)]
                made.ledger.segment_done(job, int(index), attempt, 0, Losses(0, 0, 0, 0))
    assert "short" in order[:13]
    counts = {job: order.count(job) for job in order if job != "short"}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_last_chunk_has_the_result_made_once(
    parts: tuple[Runtime, Recorder, Dispatcher],
) -> None:
    made, outbox, dispatcher = parts
    split(parts, "j", 1)
    dispatcher.step()
    made.ledger.segment_done("j", 0, 1, 1, Losses(0, 0, 0, 0))
    dispatcher.step()
    outbox.take()
    message = fly(made, "j", "0:0", "encode")
    made.ledger.chunk_done(message, ChunkRecord(key="c", pts=(0, 1, 2), size_bytes=1))
    dispatcher.step()
    dispatcher.step()
    assert outbox.take() == [("encode.mux", "j/mux", "mux")]


def test_work_of_a_dead_worker_is_sent_again_and_that_of_a_living_one_is_not(
    parts: tuple[Runtime, Recorder, Dispatcher], redis: Connection
) -> None:
    made, outbox, dispatcher = parts
    split(parts, "j", 1)
    made.ledger.take_segment("j", 1)
    made.ledger.take("j", "segment:0", "lives")
    redis.set(PREFIX + "lives", WORKER.format("lives"))
    for name, worker in (("0:0", "dead"), ("0:1", "lives")):
        message = fly(made, "j", name, "infer")
        assert made.ledger.enter(message, "infer", worker)
    Recovery(made, dispatcher).step()
    assert outbox.take() == [("infer.batch", "j/0:0", "infer.cpu0")]
    redis.delete(PREFIX + "lives")
    Recovery(made, dispatcher).step()
    assert made.ledger.running("j") == {}
    dispatcher.step()
    assert ("decode.segment", "j/segment:0", "decode.cpu0") in outbox.take()


@dataclass
class Clock:
    """Seconds as the test says."""

    now: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Mute:
    """A server that is out of reach for so long when it is asked next, and lets keys expire."""

    def __init__(self, redis: Connection, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self.silent_s = 0.0

    def __getattr__(self, name: str) -> object:
        if self.silent_s:
            self._clock.now += self.silent_s
            self._redis.delete(PREFIX + "w")
            self.silent_s = 0.0
        return getattr(self._redis, name)


@pytest.mark.parametrize("lives", [True, False])
@pytest.mark.parametrize("waited", [True, False])
def test_after_an_outage_of_redis_workers_have_time_to_give_signs_of_life(
    parts: tuple[Runtime, Recorder, Dispatcher], redis: Connection, waited: bool, lives: bool
) -> None:
    """`waited`: for its answer; else every call failed at once."""
    made, outbox, dispatcher = parts
    clock = Clock()
    mute = Mute(redis, clock)
    dead_after_s = made.settings.dead_after_s
    split(parts, "j", 1)
    message = fly(made, "j", "0:0", "infer")
    redis.set(PREFIX + "w", WORKER.format("w"))
    assert made.ledger.enter(message, "infer", "w")
    recovery = Recovery(replace(made, redis=mute), dispatcher, clock)  # type: ignore[arg-type]
    recovery.step()
    clock.now += EVERY_S
    if waited:
        mute.silent_s = 2 * dead_after_s
    else:
        clock.now += 2 * dead_after_s
        redis.delete(PREFIX + "w")
    for _ in range(int(dead_after_s / EVERY_S)):
        recovery.step()
        assert outbox.take() == []
        clock.now += EVERY_S
    if lives:
        redis.set(PREFIX + "w", WORKER.format("w"))
    clock.now += EVERY_S
    recovery.step()
    assert outbox.take() == ([] if lives else [("infer.batch", "j/0:0", "infer.cpu0")])


def test_who_can_not_be_heard_as_redis_takes_no_writes_is_not_taken_for_dead(
    parts: tuple[Runtime, Recorder, Dispatcher], redis: Connection
) -> None:
    made, outbox, dispatcher = parts
    clock = Clock()
    split(parts, "j", 1)
    message = fly(made, "j", "0:0", "infer")
    redis.set(PREFIX + "w", WORKER.format("w"))
    assert made.ledger.enter(message, "infer", "w")
    recovery = Recovery(made, dispatcher, clock)
    recovery.step()
    redis.delete(PREFIX + "w")  # expired: the beats after it were refused
    redis.config_set("min-replicas-to-write", 1)
    try:
        for _ in range(10):
            clock.now += EVERY_S
            with pytest.raises(RedisError):
                recovery.step()
    finally:
        redis.config_set("min-replicas-to-write", 0)
    clock.now += EVERY_S
    recovery.step()
    assert outbox.take() == []


class Refusing(Recorder):
    """A broker that is away after so many messages."""

    left = 2

    def send(self, task: str, message: Message, queue: str) -> None:
        """Write it down, or refuse."""
        if self.left == 0:
            raise TemporaryError(ErrorCode.BUSY, "Away.")
        self.left -= 1
        super().send(task, message, queue)


def test_what_the_broker_did_not_take_is_sent_once_when_it_is_back(
    parts: tuple[Runtime, Recorder, Dispatcher],
) -> None:
    made, _, _ = parts
    for number in range(3):
        ArenaRegistry(made.redis).publish(ARENA.model_copy(update={"name": f"cpu{number}"}))
    for job in ("a", "b", "c"):
        made.ledger.submit(job, job_spec())
    split(parts, "j", 1)
    outbox = Refusing()
    dispatcher = Dispatcher(replace(made, outbox=outbox))
    for _ in range(2):
        with pytest.raises(TemporaryError):
            dispatcher.step()
    assert len(outbox.take()) == 2
    outbox.left = 9
    dispatcher.step()
    sent = outbox.take()
    dispatcher.step()
    sent += outbox.take()
    assert sorted(task for task, _, _ in sent) == ["decode.segment", "decode.split"]


def test_a_parked_batch_is_left_alone_and_keeps_its_slot(
    parts: tuple[Runtime, Recorder, Dispatcher],
) -> None:
    made, outbox, dispatcher = parts
    made = impatient(made)
    split(parts, "j", 1)
    made.ledger.take_segment("j", 1)
    early = fly(made, "j", "0:1", "compose")
    made.ledger.turn(early, "w")
    Recovery(made, dispatcher).step()
    assert not [entry for entry in outbox.take() if entry[0] == "compose.batch"]
    assert made.still_holds(early.slot)


def test_a_message_that_nobody_takes_up_is_sent_again(
    parts: tuple[Runtime, Recorder, Dispatcher],
) -> None:
    made, outbox, dispatcher = parts
    made = impatient(made)
    split(parts, "j", 1)
    fly(made, "j", "0:0", "encode")
    Recovery(made, dispatcher).step()
    assert outbox.take() == [("encode.batch", "j/0:0", "encode.cpu0")]


def test_a_batch_whose_slot_is_lost_is_decoded_again(
    parts: tuple[Runtime, Recorder, Dispatcher],
) -> None:
    made, _, dispatcher = parts
    split(parts, "j", 1)
    message = fly(made, "j", "0:0", "infer")
    made.release(message.slot)
    Recovery(made, dispatcher).step()
    assert list(made.ledger.flights("j")) == []
    assert made.ledger.wanted("j", 0, 0)


@pytest.mark.parametrize("succeeds", [True, False])
def test_what_is_left_of_an_ended_job_goes(
    parts: tuple[Runtime, Recorder, Dispatcher], redis_url: str, succeeds: bool
) -> None:
    made, _, _ = parts
    split(parts, "j", 1)
    message = fly(made, "j", "0:0", "infer")
    for key in ("jobs/j/source.mp4", "jobs/j/chunks/1.nut", "jobs/j/result.mp4"):
        with made.store.scratch() as folder:
            (folder / "x").write_bytes(b"x")
            made.store.put(key, folder / "x")
    if succeeds:
        made.ledger.finish("j", JobResult(key="jobs/j/result.mp4", frames=3))
    else:
        made.ledger.fail("j", ErrorCode.TOO_DAMAGED, "Broken.")
    app = make_app(redis_url)
    Closing(made, Telling(made.ledger, app)).step()
    assert not made.still_holds(message.slot)
    # The result, or what it can be tried again from.
    left = "jobs/j/result.mp4" if succeeds else "jobs/j/source.mp4"
    assert list(made.store.keys("jobs/j")) == [left]
    assert made.ledger.ended() == []
    told = app.AsyncResult("j")
    assert told.state == ("SUCCESS" if succeeds else "FAILURE")
    if succeeds:
        assert told.result["frames"] == 3
    else:
        assert "Broken." in str(told.result)


def test_a_running_job_tells_its_progress(
    parts: tuple[Runtime, Recorder, Dispatcher], redis_url: str
) -> None:
    made, _, _ = parts
    split(parts, "j", 2)
    app = make_app(redis_url)
    Closing(made, Telling(made.ledger, app)).step()
    told = app.AsyncResult("j")
    assert told.state == "PROGRESS"
    assert told.result == {
        "state": JobState.RUNNING.value,
        "frames": 0,
        "expected": 20,
        "percent": 0.0,
        "frames_per_s": None,
    }


WORKER = '{{"id":"{}","stage":"infer","arena":"cpu0","pid":1}}'
