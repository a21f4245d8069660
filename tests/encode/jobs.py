"""Jobs whose batches are composed and wait for an encoder, in a real arena on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.arena.posix import PosixArenaOwner
from shared.arena.registry import ArenaRegistry
from shared.jobs import Codec, JobSpec, OutputPlan, Segment, SourceInfo
from shared.ledger import Losses
from shared.media.layout import FrameLayout, Plane
from shared.messages import BatchMessage, MuxMessage, ReplaceMessage
from shared.names import source_key
from shared.redisdb import Connection
from shared.runtime import Runtime, slot_ref
from shared.tracks import BatchPlan, View
from tests.encode.pictures import LAYOUT, numbered, output, source
from tests.runtimes import runtime
from tests.videos import VideoSpec, make_video

TICKS = 512
"""Of 1/12800 s: 25 frames a second."""
SLOTS = 4
NONE = Losses(0, 0, 0, 0)


@dataclass(frozen=True)
class Bench:
    """A runtime whose arena is there."""

    runtime: Runtime

    def begin(self, job: str = "j", facts: SourceInfo | None = None, **spec: object) -> OutputPlan:
        """A job that was split into one segment, which a decoder has."""
        ledger = self.runtime.ledger
        plan = output(codec=Codec(spec.get("codec", Codec.H264)))
        key = source_key(job, ".mp4")
        asked = JobSpec.model_validate({"source": key, "crf": plan.crf, **spec})
        ledger.submit(job, asked)
        assert ledger.take(job, "split", "splitter")
        ledger.put_facts(job, facts or source(plan), plan, 32)
        ledger.add_segment(job, Segment(index=0, key="s", first_pts=0, end_pts=None, frames=64))
        ledger.split_done(job, 1, 64)
        ledger.let_go(job, "split", "splitter")
        assert ledger.take_segment(job, 1) is not None
        return plan

    def composed(
        self,
        batch: int = 0,
        frames: int = 4,
        job: str = "j",
        *,
        slot: Plane | None = None,
        layout: FrameLayout = LAYOUT,
    ) -> BatchMessage:
        """A batch that compose has handed on: frames that show their number, or those of `slot`."""
        arena = self.runtime.arenas.current("t")
        lease = self.runtime.leases.acquire("slots:t:composed", f"{job}/0:{batch}")
        assert lease is not None
        ref = slot_ref("t", arena.descriptor.generation, "composed", lease)
        pictures = numbered(frames, 100 * batch, layout) if slot is None else slot
        arena.slot("composed", ref.slot)[: pictures.size] = pictures
        first = 100 * batch
        pts = tuple(TICKS * at for at in range(first, first + frames))
        message = BatchMessage(job=job, segment=0, batch=batch, layout=layout, pts=pts, slot=ref)
        ledger = self.runtime.ledger
        assert ledger.send(message, "compose", "w") == "go"
        plan = plan_of(frames).model_dump_json()
        ledger.planned(message, plan, "{}", 2)
        assert ledger.send(message, "encode", "w") == "go"
        return message

    def given_up(self, batch: int, frames: int, first: int | None = None) -> ReplaceMessage:
        """A batch that nobody can make, of frames from number `first` on."""
        start = 100 * batch if first is None else first
        pts = tuple(TICKS * at for at in range(start, start + frames))
        message = ReplaceMessage(job="j", segment=0, batch=batch, pts=pts, why="Broken.")
        self.runtime.ledger.replace(message)
        return message

    def decoded(self, batches: int, job: str = "j") -> None:
        """The segment is decoded into so many batches."""
        self.runtime.ledger.segment_done(job, 0, 1, batches, Losses(2, 0, 0, 0))

    def put_source(self, folder: Path, job: str = "j") -> None:
        """Have the job's source in the store."""
        path = make_video(folder / "source.mp4", VideoSpec(frames=5))
        self.runtime.store.put(source_key(job, ".mp4"), path)

    def mux_message(self, job: str = "j") -> MuxMessage:
        """To `encode.mux`."""
        return MuxMessage(job=job)


def plan_of(frames: int) -> BatchPlan:
    """Two people, the second comes into view at frame 2; the views move to the right."""
    looked = tuple(range(0, frames, 2))
    return BatchPlan(
        views=tuple((View(at, 0, 32, 32), View(64 + at / 256, 0, 32, 32)) for at in range(frames)),
        frames=looked,
        persons=tuple((1, 2 if at else 0) for at in looked),
        seen=tuple(2 if at else 1 for at in looked),
        cuts=(2,) if frames > 2 else (),
    )


@contextmanager
def bench(redis: Connection, folder: Path, **settings: object) -> Iterator[Bench]:
    """A runtime with an arena "t" of SLOTS composed slots."""
    made = runtime(redis, folder, arena="t", **settings)[0]
    slot_bytes = 64 * LAYOUT.frame_bytes
    owner = PosixArenaOwner.create("t", folder, (2 + SLOTS) * slot_bytes, 2, SLOTS)
    ArenaRegistry(redis).publish(owner.descriptor)
    made.leases.resize("slots:t:composed", SLOTS)
    try:
        yield Bench(made)
    finally:
        made.sessions.close()
        owner.close()
