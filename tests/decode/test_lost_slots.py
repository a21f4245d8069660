"""Frames that are lost on their way, or their whole arena: decode makes them again and waits for
nobody who waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.coordinator.dispatch import Dispatcher
from services.decode.stage import DecodeStage, split_job
from shared.arena.__main__ import announce, retire
from shared.arena.base import ArenaOwner
from shared.arena.posix import PosixArenaOwner
from shared.arena.registry import ArenaRegistry
from shared.errors import DeferredError
from shared.jobs import JobSpec, JobState
from shared.ledger import ChunkRecord
from shared.messages import BatchMessage, Message, SegmentMessage, SplitMessage
from shared.names import source_key
from shared.redisdb import Connection
from shared.runtime import Runtime
from tests.runtimes import Recorder, runtime
from tests.videos import VideoSpec, make_video

SLOTS = 3
BATCHES = 8
FRAMES = 8
SLOT_BYTES = FRAMES * 64 * 48 * 2


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One segment."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    frames = BATCHES * FRAMES
    return make_video(path, VideoSpec(size=(64, 48), frames=frames, gop=frames))


class Line:
    """Infer, compose and encode in little, each batch at once, in the decoder's own thread. The
    first ones stay with infer until every slot is taken: then `mishap` befalls them."""

    def __init__(self, made: Runtime, mishap: Callable[[BatchMessage], None]) -> None:
        self.made = replace(made, outbox=self)
        self._mishap = mishap
        self._early: list[BatchMessage] | None = []

    def send(self, task: str, message: Message, queue: str) -> None:  # noqa: ARG002 - as Outbox
        assert isinstance(message, BatchMessage)
        if task == "compose.batch":
            self._compose(message)
        elif self._early is None:
            self._infer(message)
        else:
            self._early.append(message)
            if len(self._early) == SLOTS:
                early, self._early = self._early, None
                self._mishap(early[0])
                for each in early:
                    self._infer(each)

    def _infer(self, message: BatchMessage) -> None:
        if not self.made.ledger.enter(message, "infer", "me"):
            return
        if self.made.slot(message.slot) is None:
            self.made.forget(message)
            return
        self.made.ledger.put_faces(message, "{}")
        self.made.hand_on(message, "compose")

    def _compose(self, message: BatchMessage) -> None:
        ledger = self.made.ledger
        if not ledger.enter(message, "compose", "me") or ledger.turn(message, "me").faces is None:
            return
        after = ledger.planned(message, "P", "T", 2)
        ledger.chunk_done(message, ChunkRecord(key=message.name, pts=message.pts, size_bytes=1))
        self.made.release(message.slot)
        if after is not None:
            self._compose(after)


@contextmanager
def slab(folder: Path) -> Iterator[ArenaOwner]:
    """An arena that nobody knows of yet."""
    owner = PosixArenaOwner.create("cpu0", folder, 2 * SLOTS * SLOT_BYTES, SLOTS, SLOTS)
    try:
        yield owner
    finally:
        owner.close()


@contextmanager
def arena(made: Runtime, folder: Path) -> Iterator[ArenaOwner]:
    with slab(folder) as owner:
        announce(owner, ArenaRegistry(made.redis), made.leases)
        yield owner


@pytest.fixture
def made(redis: Connection, tmp_path: Path, video: Path) -> Runtime:
    """A job that was split, where slots are waited for one short moment."""
    made, _ = runtime(redis, tmp_path, slot_wait_s=0.1, batch_frames=FRAMES)
    key = source_key("j", ".mp4")
    made.store.adopt(key, video)
    made.ledger.submit("j", JobSpec(source=key))
    with arena(made, tmp_path):
        split_job(made, SplitMessage(job="j"))
    return made


def attempt(made: Runtime, stage: DecodeStage) -> None:
    """Have the next segment decoded."""
    taken = made.ledger.take_segment("j", 1)
    assert taken is not None
    segment, number = taken
    message = SegmentMessage(job="j", segment=segment, batch_frames=FRAMES, attempt=number)
    stage.run(made, message)


def finish(line: Line) -> None:
    """Decode until every batch has its chunk, in a few attempts."""
    stage = DecodeStage()
    for _ in range(4):
        attempt(line.made, stage)
        if line.made.ledger.state("j") is JobState.MUXING:
            break
    assert line.made.ledger.state("j") is JobState.MUXING
    assert len(line.made.ledger.chunks("j")) == BATCHES
    assert line.made.leases.look("slots:cpu0:decoded").used == 0


def test_a_job_goes_on_whose_batch_in_turn_lost_its_slot_before_its_faces_were_found(
    made: Runtime, tmp_path: Path
) -> None:
    # Nobody waits it out: the decoder that has passed the lost batch begins again.
    forever = made.settings.model_copy(update={"slot_wait_s": 600.0})
    made = replace(made, settings=forever)
    with arena(made, tmp_path):
        finish(Line(made, lambda first: bool(made.leases.release(first.slot.lease()))))


def test_a_job_goes_on_whose_arena_was_replaced_while_a_segment_was_decoded(
    made: Runtime, tmp_path: Path
) -> None:
    with arena(made, tmp_path), slab(tmp_path) as second:

        def replaced(_: BatchMessage) -> None:
            announce(second, ArenaRegistry(made.redis), made.leases)

        finish(Line(made, replaced))


def test_segments_wait_for_an_arena_with_the_coordinator_and_use_up_no_try(
    made: Runtime, tmp_path: Path
) -> None:
    stage = DecodeStage()
    dispatcher = Dispatcher(made)
    registry = ArenaRegistry(made.redis)
    outbox = made.outbox
    assert isinstance(outbox, Recorder)
    with arena(made, tmp_path) as owner:
        retire(owner, registry, made.leases)
    for _ in range(2 * made.settings.attempts):
        attempt(made, stage)  # had been sent before
    outbox.take()
    dispatcher.step()
    assert outbox.take() == []
    assert made.ledger.state("j") is JobState.RUNNING
    with arena(made, tmp_path):
        dispatcher.step()
        assert outbox.take() == [("decode.segment", "j/segment:0", "decode.cpu0")]
        ((index, number),) = made.ledger.running("j").items()
        made.ledger.return_segment("j", index, number, gave_back=False)
        finish(Line(made, lambda _: None))


def test_a_split_waits_for_an_arena_and_uses_up_no_try(
    redis: Connection, tmp_path: Path, video: Path
) -> None:
    made, _ = runtime(redis, tmp_path)
    key = source_key("j", ".mp4")
    made.store.adopt(key, video)
    made.ledger.submit("j", JobSpec(source=key))
    message = SplitMessage(job="j")
    for _ in range(2 * made.settings.attempts):
        with pytest.raises(DeferredError, match="no arena"):
            split_job(made, message)
        made.ledger.let_go("j", message.item, made.worker, untried=True)  # as a worker does
    with arena(made, tmp_path):
        split_job(made, message)
    assert made.ledger.state("j") is JobState.RUNNING
