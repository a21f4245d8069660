"""Segments of a source."""

from __future__ import annotations

from shared.jobs import OutputPlan, Segment, SourceInfo
from shared.ledger.base import Base, key_of
from shared.ledger.records import Losses, sum_of
from shared.messages import BatchMessage, read_batch


class Segments(Base):
    """From the split until the last batch of each is decoded."""

    def put_facts(
        self,
        job: str,
        source: SourceInfo,
        output: OutputPlan,
        batch_frames: int,
        slot_bytes: int = 0,
    ) -> bool:
        """What the split found out. `batch_frames` hold from the first time on, and with them
        `slot_bytes`: what an arena's slot must have for a batch of so many; 0: any slot will do."""
        expected = source.frames_estimate or 0
        texts = (source.model_dump_json(), output.model_dump_json())
        return self._call(job, "facts", *texts, batch_frames, slot_bytes, expected) == ["go"]

    def add_segment(self, job: str, segment: Segment) -> bool:
        """The segment is in the store and may be dispatched; False when the job has ended."""
        answer = self._call(job, "add_segment", segment.index, segment.model_dump_json())
        return answer != ["stale"]

    def split_done(self, job: str, segments: int, frames: int) -> bool:
        """splitting -> running; now the numbers are known."""
        return self._call(job, "split_done", segments, frames) == ["go"]

    def take_segment(self, job: str, most: int) -> tuple[Segment, int] | None:
        """The lowest waiting segment and its attempt, None when none waits or `most` run."""
        answer = self._call(job, "take_segment", most)
        return (Segment.read_kept(answer[0]), int(answer[1])) if answer else None

    def return_segment(self, job: str, index: int, attempt: int, *, gave_back: bool) -> None:
        """Have the segment dispatched again; nothing when another attempt runs.

        `gave_back`: its decoder lives and found no slot, which counts as no failed try.
        """
        self._call(job, "return_segment", index, attempt, int(gave_back))

    def segment_is_current(self, job: str, index: int, attempt: int) -> bool:
        """False when the job ended or another attempt at the segment runs."""
        return self._call(job, "segment_state", index, attempt) == ["go"]

    def segment_done(
        self, job: str, index: int, attempt: int, batches: int, losses: Losses
    ) -> BatchMessage | None:
        """The segment is decoded into `batches`; a batch whose turn has come by that, if any."""
        answer = self._call(job, "segment_done", index, attempt, batches, *losses)
        return read_batch(answer[0]) if answer else None

    def running(self, job: str) -> dict[int, int]:
        """Segments that are with a decoder: index -> attempt."""
        rows = self._redis.hgetall(f"{key_of(job)}:running")
        return {int(index): int(attempt) for index, attempt in rows.items()}

    def losses(self, job: str) -> Losses:
        """What the segments decoded so far have lost, in sum."""
        return sum_of([str(row) for row in self._redis.hvals(f"{key_of(job)}:losses")])

    def lossy(self, job: str) -> list[tuple[Segment, Losses]]:
        """The segments that have lost something, in order, and what."""
        rows = self._redis.hgetall(f"{key_of(job)}:losses")
        found = {int(str(index)): sum_of([str(row)]) for index, row in rows.items()}
        indexes = sorted(index for index, losses in found.items() if any(losses))
        texts = self._redis.hmget(f"{key_of(job)}:segments", indexes) if indexes else []
        pairs = zip(indexes, texts, strict=True)
        return [
            (Segment.read_kept(str(text)), found[index])
            for index, text in pairs
            if text is not None
        ]
