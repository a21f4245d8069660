"""Batches of frames, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator

from shared.ledger.base import Base, key_of
from shared.ledger.records import ChunkRecord, Flight, Neighbours, Turn
from shared.messages import BatchMessage, ReplaceMessage, read_batch, read_replace


class Batches(Base):
    """From decode to their chunk, or to being given up."""

    def wanted(self, job: str, segment: int, batch: int) -> bool:
        """False when the batch is on its way or done."""
        return self._call(job, "wanted", f"{segment}:{batch}") == ["1"]

    def in_turn(self, job: str, segment: int) -> bool:
        """True when every batch before this segment has been tracked."""
        return self._call(job, "in_turn", segment) == ["1"]

    def send(self, message: BatchMessage, stage: str, worker: str) -> str:
        """Write down that the batch goes from `worker` to `stage`: "go"; else it does not: "done"
        (it has a chunk), "stale", or "theirs": another worker has it, and its slots."""
        body = message.model_dump_json()
        frames = len(message.pts)
        return self._call(message.job, "send", message.name, stage, worker, frames, body)[0]

    def enter(self, message: BatchMessage, stage: str, worker: str) -> int:
        """A worker takes the batch up: which try it is, from 1; 0 for a late or double message.

        Raises SpentError when it was taken up too often, with the last failure's words.
        """
        body = message.model_dump_json()
        answer = self._call(message.job, "enter", message.name, stage, worker, body, self._attempts)
        return self._which_try(f"{stage} of batch {message.name}", answer)

    def has(self, message: BatchMessage, worker: str) -> bool:
        """True while the batch is in the worker's hands."""
        entry = self._redis.hget(f"{key_of(message.job)}:flight", message.name)
        return entry is not None and str(entry).split(" ", 2)[1] == worker

    def plan(self, message: BatchMessage) -> str | None:
        """The plan that the batch was rendered by; None once its chunk is done."""
        text = self._redis.hget(f"{key_of(message.job)}:plans", message.name)
        return None if text is None else str(text)

    def put_faces(self, message: BatchMessage, faces: str) -> None:
        """Keep the faces found, for tracking."""
        self._call(message.job, "put_faces", message.name, faces)

    def turn(self, message: BatchMessage, worker: str) -> Turn:
        """May the batch be tracked? A batch that comes early is parked, out of `worker`'s hands."""
        answer = self._call(message.job, "turn", message.name, message.model_dump_json(), worker)
        if answer[0] == "planned":
            return Turn(plan=answer[1])
        if answer[0] == "go":
            return Turn(faces=answer[1], tracker=answer[2])
        return Turn()

    def planned(
        self, message: BatchMessage, plan: str, tracker: str, people: int
    ) -> BatchMessage | None:
        """Keep the plan, pass the turn on; the parked batch whose turn it is now, if any."""
        answer = self._call(message.job, "planned", message.name, plan, tracker, people)
        return read_batch(answer[0]) if answer else None

    def chunk_done(self, message: BatchMessage | ReplaceMessage, chunk: ChunkRecord) -> bool:
        """The chunk is in the store; False when the job has ended."""
        answer = self._call(
            message.job, "chunk_done", message.name, chunk.model_dump_json(), chunk.frames
        )
        return answer != ["stale"]

    def forget_batch(self, message: BatchMessage) -> list[BatchMessage]:
        """The batch's frames are gone from the message's slot; its segment is decoded again for it.

        All that were forgotten: those parked behind it too. None when the batch has moved on: who
        says so is late.
        """
        slot = message.slot
        answer = self._call(message.job, "forget_batch", message.name, slot.pool, slot.token)
        return [read_batch(body) for body in answer]

    def lost_behind(self, job: str, segment: int, batch: int) -> bool:
        """True when the batch whose turn it is was forgotten, and stands before this one in its
        segment: the decoder that is at this one has to begin again."""
        return self._call(job, "lost_behind", f"{segment}:{batch}") == ["1"]

    def forget_parked(self, job: str, segment: int, batch: int, arena: str) -> BatchMessage | None:
        """There is no slot in `arena` for a batch to be decoded. If all of the job that is on its
        way waits for just this one, the last of them in that arena, which is forgotten: it is
        decoded again later, its slot is the caller's to give back."""
        answer = self._call(job, "forget_parked", f"{segment}:{batch}", arena)
        return read_batch(answer[0]) if answer else None

    def replace(self, message: ReplaceMessage) -> BatchMessage | None:
        """Give the batch up: its frames will show the last good one. A batch whose turn has come by
        that, if any. Idempotent."""
        answer = self._call(message.job, "replace", message.name, message.model_dump_json())
        return read_batch(answer[0]) if answer else None

    def replaced(self, job: str, *, unmade: bool = False) -> list[ReplaceMessage]:
        """All batches that were given up, or those that have no chunk yet, in display order."""
        rows = self._redis.hvals(f"{key_of(job)}:replaced")
        found = [read_replace(str(row)) for row in rows]
        if unmade and found:
            chunks = self._redis.hmget(f"{key_of(job)}:chunks", [each.name for each in found])
            found = [each for each, chunk in zip(found, chunks, strict=True) if chunk is None]
        return sorted(found, key=lambda message: (message.segment, message.batch))

    def neighbours(self, message: ReplaceMessage) -> Neighbours | None:
        """What a batch that was given up stands between; None while some of it is yet to come.

        Once it is known it stays so: a batch with a chunk is not given up any more.
        """
        job = message.job
        try:
            before = self._chunk_before(job, message.segment, message.batch)
            if before is None:
                return None
        except LookupError:
            before = None
        given_up = {each.name for each in self.replaced(job)}
        total = int(self._redis.hget(key_of(job), "segments_total") or 0)
        segment, batch, near = message.segment, message.batch + 1, True
        while segment < total or not total:
            count = self._redis.hget(f"{key_of(job)}:batches", str(segment))
            if count is not None and batch >= int(count):
                segment, batch = segment + 1, 0
            elif (name := f"{segment}:{batch}") in given_up:
                batch, near = batch + 1, False
            else:
                text = self._redis.hget(f"{key_of(job)}:chunks", name)
                if text is None:
                    return None
                return Neighbours(before, ChunkRecord.read_kept(str(text)), near)
        return Neighbours(before, None, False)

    def _chunk_before(self, job: str, segment: int, batch: int) -> ChunkRecord | None:
        """The chunk of the batch before this one, None while there is none.

        Raises LookupError for the first batch of the job, before which there can't be one.
        """
        while batch == 0:
            if segment == 0:
                raise LookupError("nothing is before the first batch")
            segment -= 1
            count = self._redis.hget(f"{key_of(job)}:batches", str(segment))
            if count is None:
                return None  # it is still being decoded
            batch = int(count)
        text = self._redis.hget(f"{key_of(job)}:chunks", f"{segment}:{batch - 1}")
        return None if text is None else ChunkRecord.read_kept(str(text))

    def known_times(self, job: str, segment: int) -> dict[int, tuple[int, ...]]:
        """The segment's batches that are on their way, done or given up: batch -> its pts."""
        found = {
            f.message.batch: f.message.pts
            for f in self.flights(job)
            if f.message.segment == segment
        }
        found |= {m.batch: m.pts for m in self.replaced(job) if m.segment == segment}
        for name, text in self._redis.hgetall(f"{key_of(job)}:chunks").items():
            of, _, batch = str(name).partition(":")
            if int(of) == segment:
                found[int(batch)] = ChunkRecord.read_kept(str(text)).pts
        return found

    def flights(self, job: str) -> Iterator[Flight]:
        """All batches on their way."""
        for name, entry in self._redis.hgetall(f"{key_of(job)}:flight").items():
            stage, worker, _, body = str(entry).split(" ", 3)
            message = read_batch(body)
            yield Flight(str(name), stage, None if worker == "-" else worker, message)

    def is_bound(self, message: BatchMessage) -> bool:
        """True while the batch is on its way in the message's slot, in nobody's hands."""
        entry = self._redis.hget(f"{key_of(message.job)}:flight", message.name)
        if entry is None:
            return False
        _, worker, _, body = str(entry).split(" ", 3)
        return worker == "-" and read_batch(body).slot.token == message.slot.token

    def parked(self, job: str) -> set[str]:
        """Names of the batches that wait for their turn."""
        return {str(name) for name in self._redis.hkeys(f"{key_of(job)}:parked")}

    def chunks(self, job: str) -> list[ChunkRecord]:
        """All chunks in the order of display."""
        rows = self._redis.hgetall(f"{key_of(job)}:chunks")
        order = sorted(rows, key=lambda name: tuple(int(part) for part in str(name).split(":")))
        return [ChunkRecord.read_kept(str(rows[name])) for name in order]
