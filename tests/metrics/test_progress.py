"""How long jobs have not got on, from a real Redis, by clocks that are set by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from services.coordinator.progress import Progress
from shared.jobs import JobState
from shared.ledger import ChunkRecord, Ledger, Losses
from shared.messages import SegmentMessage
from shared.redisdb import Connection
from tests.builders import batch_message, job_spec, output_plan, segment, source_info

BLIND_S = 60.0


@dataclass
class Watched:
    """A ledger, and who looks at it."""

    ledger: Ledger
    now: float = 1000.0
    wall: float = 0.0
    attempts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.progress = Progress(self.ledger, BLIND_S, lambda: self.now, lambda: self.wall)

    def after(self, seconds: float) -> dict[JobState, float]:
        """The longest times, when so many seconds went by."""
        self.now += seconds
        return self.progress.look()

    def split(self, job: str, segments: int = 2) -> None:
        """A job that runs, with all of its segments waiting."""
        self.ledger.submit(job, job_spec())
        self.ledger.due(decoders=0, per_job=1, splits=99, ahead=99, count=99)
        self.ledger.take(job, "split", "w")
        self.ledger.put_facts(job, source_info(), output_plan(), 10)
        for index in range(segments):
            self.ledger.add_segment(job, segment(index))
        self.ledger.let_go(job, "split", "w")
        self.ledger.split_done(job, segments, 10 * segments)

    def dispatch(self, decoders: int) -> list[str]:
        """Whose segments are with decoders from here on."""
        due = self.ledger.due(decoders=decoders, per_job=1, splits=0, ahead=0, count=99)
        sent = [message for message in due if isinstance(message, SegmentMessage)]
        self.attempts |= {message.job: message.attempt for message in sent}
        return [message.job for message in sent]

    def chunk(self, job: str, name: str) -> None:
        """A batch is through."""
        message = batch_message(name, job=job)
        self.ledger.send(message, "infer", "w")
        self.ledger.chunk_done(message, ChunkRecord(key=f"{job}/{name}", pts=(0,), size_bytes=1))

    def decoded(self, job: str, index: int, batches: int) -> None:
        """The job's segment is through with its decoder."""
        losses = Losses(0, 0, 0, 0)
        self.ledger.segment_done(job, index, self.attempts[job], batches, losses)


@pytest.fixture
def watched(redis: Connection) -> Watched:
    return Watched(Ledger(redis, 3600, 4))


def test_one_job_that_does_not_get_on_is_told_of_while_others_do(watched: Watched) -> None:
    watched.split("stuck")
    watched.split("fine")
    assert sorted(watched.dispatch(2)) == ["fine", "stuck"]
    watched.after(0)
    for at in range(10):
        watched.chunk("fine", f"0:{at}")
        longest = watched.after(30)
    assert longest[JobState.RUNNING] == 300
    watched.chunk("stuck", "0:0")
    assert watched.after(5)[JobState.RUNNING] == 5  # the other one's last
    watched.ledger.cancel("stuck")
    watched.ledger.cancel("fine")
    assert watched.after(5)[JobState.RUNNING] == 0


def test_frames_that_are_made_again_and_again_are_no_progress(watched: Watched) -> None:
    watched.split("j")
    watched.dispatch(1)
    watched.after(0)
    for _ in range(3):
        message = batch_message("0:0", job="j")
        watched.ledger.send(message, "infer", "w")
        watched.ledger.forget_batch(message)
        longest = watched.after(30)
    assert longest[JobState.RUNNING] == 90


def test_who_waits_for_a_turn_that_others_have_is_in_no_trouble(watched: Watched) -> None:
    for job in ("a", "b"):
        watched.split(job)
    (first,) = watched.dispatch(1)
    watched.after(0)
    for at in range(4):
        watched.chunk(first, f"0:{at}")
        assert watched.after(50)[JobState.RUNNING] == 0  # told as far as the one that gets on is
    watched.decoded(first, 0, 4)
    assert watched.after(30)[JobState.RUNNING] == 30  # nobody has work out
    assert watched.after(30)[JobState.RUNNING] == 60
    assert len(watched.dispatch(1)) == 1
    assert watched.after(1)[JobState.RUNNING] == 0


def test_splitting_counts_from_when_a_job_is_let_in_and_each_segment_is_a_step(
    watched: Watched,
) -> None:
    ledger = watched.ledger
    ledger.submit("j", job_spec())
    assert watched.after(50)[JobState.SPLITTING] == 0
    ledger.due(decoders=0, per_job=1, splits=1, ahead=9, count=9)
    watched.after(50)
    assert watched.after(50)[JobState.SPLITTING] == 50  # sent, and nobody takes it up
    ledger.take("j", "split", "w")
    watched.after(50)
    assert watched.after(50)[JobState.SPLITTING] == 50
    ledger.put_facts("j", source_info(), output_plan(), 10)
    ledger.add_segment("j", segment(0))
    assert watched.after(50)[JobState.SPLITTING] == 0


def test_muxing_that_comes_to_nothing_is_told_of(watched: Watched) -> None:
    watched.split("j", segments=1)
    watched.dispatch(1)
    watched.chunk("j", "0:0")
    watched.decoded("j", 0, 1)
    assert watched.ledger.state("j") is JobState.MUXING
    watched.after(50)
    longest = watched.after(50)
    assert (longest[JobState.MUXING], longest[JobState.RUNNING]) == (50, 0)


def test_of_queued_jobs_the_longest_wait_is_told(watched: Watched, redis: Connection) -> None:
    assert watched.after(0)[JobState.QUEUED] == 0
    for job in ("late", "early"):
        watched.ledger.submit(job, job_spec(priority=1 if job == "late" else 9))
    redis.zadd("df:index:list:all:queued", {"early": 500_000, "late": 900_000})
    watched.wall = 1000.0
    assert watched.after(0)[JobState.QUEUED] == 500
    watched.wall = 0.0  # a clock that was set back
    assert watched.after(0)[JobState.QUEUED] == 0


def test_while_redis_was_away_nobody_could_get_on(watched: Watched) -> None:
    watched.split("j")
    watched.dispatch(1)
    watched.after(0)
    assert watched.after(50)[JobState.RUNNING] == 50
    assert watched.after(BLIND_S + 1)[JobState.RUNNING] == 0
    assert watched.after(50)[JobState.RUNNING] == 50
