"""Typed front of the script in `lua/`; every method that changes something is one atomic step."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared.errors import (
    DualfaceError,
    ErrorCode,
    PermanentError,
    SpentError,
    TemporaryError,
    WorkOverError,
)
from shared.jobs import JobSpec, JobState, OutputPlan, Segment, SourceInfo
from shared.ledger.records import (
    STAGES,
    ChunkRecord,
    Event,
    Facts,
    Flight,
    JobResult,
    JobView,
    Losses,
    Neighbours,
    Page,
    Turn,
)
from shared.messages import (
    BatchMessage,
    MuxMessage,
    ReplaceMessage,
    SegmentMessage,
    SplitMessage,
    read_batch,
    read_replace,
)
from shared.redisdb import Connection, Script

SCRIPT = tuple(
    f"lua/{part}.lua"
    for part in (
        "job", "indexes", "work", "segments", "batches", "lifecycle", "dispatch", "call",
    )
)  # fmt: skip
LIVE = "df:jobs:live"
ENDED = "df:jobs:ended"
INDEX = "df:index:"
WAKE = "df:wake"
GRACE_S = 86400
"""How much longer than asked for a record stays when no coordinator is there to bury it."""
SHOWN = (
    "state", "spec", "owner", "submitted_ms", "started_ms", "ended_ms", "code", "message",
    "result", "frames_expected", *(f"frames_{stage}" for stage in STAGES),
    *(f"cpu_ms_{stage}" for stage in STAGES), *(f"engine_{stage}" for stage in STAGES),
)  # fmt: skip
"""Fields of a job's record that people see: half of them, for a list of many."""
MARKS = ("state", "ended_ms", "cpu_ms_encode")
"""The last thing that changes of a job that has ended is what joining its chunks cost."""
ENDED_STATES = frozenset(state.value for state in JobState if state.ended)
EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")
RATE_EVENTS = 24
"""Chunks that the rate is taken over: some seconds' worth."""
PARTS = (
    "segments", "ready", "running", "attempts", "batches", "losses", "redo", "flight", "faces",
    "plans", "parked", "chunks", "tracker", "hands", "tries", "why", "replaced",
)  # fmt: skip


class Ledger:
    """The ledger of one Redis. `now` is only written down for people; deadlines are Redis's."""

    def __init__(self, connection: Connection, retention_s: int, attempts: int) -> None:
        """`attempts`: tries of one piece of work, in all; ended jobs live for `retention_s`."""
        self._redis = connection
        self._attempts = attempts
        self._script = Script(connection, "shared.ledger", *SCRIPT)
        self._retention_s = retention_s

    # --- jobs -----------------------------------------------------------------------------------

    def submit(self, job: str, spec: JobSpec, owner: str = "", *, most_live: int = 0) -> JobState:
        """Enter a job as queued. An id that is known keeps its state, unless it failed.

        `most_live`: how many jobs of `owner` may not have ended; 0: any number.
        Raises TemporaryError while an earlier try of the job is being cleaned up after: a client
        waits for the end of that (`is_ending`) before it stores the source. Raises PermanentError
        OVER_QUOTA for one job too many, BAD_OPTION for an id that another owner has.
        """
        text, now = spec.model_dump_json(), int(time.time() * 1000)
        answer = self._call(job, "submit", job, text, now, owner, most_live)
        if answer == ["ending"]:
            raise TemporaryError(ErrorCode.BUSY, f"The job {job} has just ended; try again.", 0.2)
        if answer == ["foreign"]:
            raise PermanentError(ErrorCode.BAD_OPTION, "A job with this id exists already.")
        if answer == ["full"]:
            raise PermanentError(
                ErrorCode.OVER_QUOTA,
                f"{most_live} jobs are queued or running, which is the quota; wait for one to end, "
                "or cancel one.",
            )
        return JobState.QUEUED if answer == ["new"] else JobState(answer[0])

    def is_ending(self, job: str) -> bool:
        """True while an ended job's slots and objects have not been taken away yet."""
        return bool(self._redis.sismember(ENDED, job))

    def live(self) -> list[str]:
        """Jobs that have not ended, oldest first."""
        return [str(job) for job in self._redis.zrange(LIVE, 0, -1)]

    def page(self, start: int, count: int) -> list[JobView]:
        """Live jobs number `start` (from 0, oldest first) and at most `count` - 1 after it."""
        return self.views([str(job) for job in self._redis.zrange(LIVE, start, start + count - 1)])

    def state(self, job: str) -> JobState | None:
        """State of a job, None when unknown."""
        value = self._redis.hget(_key(job), "state")
        return None if value is None else JobState(str(value))

    def is_live(self, job: str) -> bool:
        """False when the job ended or is unknown."""
        state = self.state(job)
        return state is not None and not state.ended

    def spec(self, job: str) -> JobSpec:
        """The request. Raises PermanentError STALE when the job is unknown."""
        return JobSpec.read_kept(self._field(job, "spec"))

    def facts(self, job: str) -> Facts:
        """Request, source and output plan. Raises PermanentError STALE before the split began."""
        return Facts(
            self.spec(job),
            SourceInfo.read_kept(self._field(job, "source")),
            OutputPlan.read_kept(self._field(job, "output")),
        )

    def batch_frames(self, job: str) -> int:
        """Most frames of a batch of this job; the same for the whole job."""
        return int(self._field(job, "batch_frames"))

    def view(self, job: str) -> JobView | None:
        """The job as people see it, None when unknown."""
        return next(iter(self.views([job])), None)

    def views(self, jobs: Sequence[str]) -> list[JobView]:
        """Those of `jobs` that are known, as people see them; one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for job in jobs:
            pipeline.hmget(_key(job), SHOWN)
            pipeline.hvals(f"{_key(job)}:losses")
        found = pipeline.execute() if jobs else []
        views = []
        for job, values, lost in zip(jobs, found[::2], found[1::2], strict=True):
            row = {name: str(v) for name, v in zip(SHOWN, values, strict=True) if v is not None}
            if "state" in row:
                views.append(_view(job, row, lost))
        return views

    def marks(self, jobs: Sequence[str]) -> list[str]:
        """What tells whether a job that has ended still looks as it did, "" for all others: cheaper
        than its view. One round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for job in jobs:
            pipeline.hmget(_key(job), MARKS)
        rows = pipeline.execute() if jobs else []
        return [" ".join(map(str, row)) if row[0] in ENDED_STATES else "" for row in rows]

    def finish(self, job: str, result: JobResult) -> bool:
        """The job succeeded. False when it had ended before."""
        return self._end(job, JobState.SUCCEEDED, "", "", result.model_dump_json())

    def fail(self, job: str, code: ErrorCode, message: str) -> bool:
        """The job failed. False when it had ended before."""
        state = JobState.CANCELLED if code is ErrorCode.CANCELLED else JobState.FAILED
        return self._end(job, state, code.value, message, "")

    def cancel(self, job: str, why: str = "Cancelled.") -> bool:
        """End the job: who works on it puts it down within a second. False when it had ended."""
        return self.fail(job, ErrorCode.CANCELLED, why)

    def ended(self) -> list[str]:
        """Jobs that ended and were not cleaned up after yet."""
        return [str(job) for job in self._redis.smembers(ENDED)]

    def forget(self, job: str) -> None:
        """Drop everything of an ended job but its record."""
        self._redis.delete(*(f"{_key(job)}:{part}" for part in PARTS))
        self._redis.srem(ENDED, job)

    def drop(self, job: str) -> None:
        """Drop the record too."""
        self._call(job, "drop")

    def add(self, job: str, **amounts: float) -> None:
        """Add to counters of the report, for example `cpu_ms_decode`."""
        flat: list[str | float] = []
        for name, amount in amounts.items():
            flat += [name, amount]
        self._call(job, "add", *flat)

    def agree(self, job: str, field: str, value: str) -> str:
        """Decide something once for the whole job: the value of whoever asks first, also after a
        restart. Raises WorkOverError when the job has ended."""
        answer = self._call(job, "agree", field, value)
        if not answer:
            raise WorkOverError(job)
        return answer[0]

    def mark(self, job: str, name: str, item: str) -> int:
        """Count an item once, however often it is marked: how many there are now, 0 when the job
        has ended."""
        answer = self._call(job, "mark", name, item)
        return int(answer[0]) if answer else 0

    def note_engine(self, job: str, stage: str, engine: str) -> None:
        """Write down which engine serves `stage` for this job."""
        self._call(job, "engine", stage, engine)

    # --- splitting and segments -----------------------------------------------------------------

    def take(self, job: str, item: str, worker: str) -> int:
        """Take up `split`, `mux`, `segment:N`, `replace:S:B`: which try it is, from 1; 0 for a late
        or double message.

        Raises SpentError when it was taken up too often, with the last failure's words.
        """
        return self._started(item, self._call(job, "take", item, worker, self._attempts))

    def let_go(
        self,
        job: str,
        item: str,
        worker: str,
        why: DualfaceError | None = None,
        *,
        untried: bool = False,
    ) -> None:
        """The worker no longer works on the item (as `Message.item` names it); `why` if it failed,
        kept for the case that it fails once too often. `untried`: taking it up was no try."""
        reason = "" if why is None else f"{why.code.value} {why.message}"
        self._call(job, "let_go", item, worker, reason, int(untried))

    def hands(self, job: str) -> dict[str, str]:
        """Items in somebody's hands: item -> worker."""
        return {str(k): str(v) for k, v in self._redis.hgetall(f"{_key(job)}:hands").items()}

    def put_facts(
        self, job: str, source: SourceInfo, output: OutputPlan, batch_frames: int
    ) -> bool:
        """What the split found out; `batch_frames` holds from the first time on."""
        expected = source.frames_estimate or 0
        texts = (source.model_dump_json(), output.model_dump_json())
        return self._call(job, "facts", *texts, batch_frames, expected) == ["go"]

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
        rows = self._redis.hgetall(f"{_key(job)}:running")
        return {int(index): int(attempt) for index, attempt in rows.items()}

    def losses(self, job: str) -> Losses:
        """What the segments decoded so far have lost, in sum."""
        return _sum([str(row) for row in self._redis.hvals(f"{_key(job)}:losses")])

    def lossy(self, job: str) -> list[tuple[Segment, Losses]]:
        """The segments that have lost something, in order, and what."""
        rows = self._redis.hgetall(f"{_key(job)}:losses")
        found = {int(str(index)): _sum([str(row)]) for index, row in rows.items()}
        indexes = sorted(index for index, losses in found.items() if any(losses))
        texts = self._redis.hmget(f"{_key(job)}:segments", indexes) if indexes else []
        pairs = zip(indexes, texts, strict=True)
        return [
            (Segment.read_kept(str(text)), found[index])
            for index, text in pairs
            if text is not None
        ]

    # --- batches --------------------------------------------------------------------------------

    def wanted(self, job: str, segment: int, batch: int) -> bool:
        """False when the batch is on its way or done."""
        return self._call(job, "wanted", f"{segment}:{batch}") == ["1"]

    def in_turn(self, job: str, segment: int) -> bool:
        """True when every batch before this segment has been tracked."""
        return self._call(job, "in_turn", segment) == ["1"]

    def send(self, message: BatchMessage, stage: str) -> str:
        """Write down that the batch goes to `stage`: "go", "done" (has a chunk) or "stale"."""
        body = message.model_dump_json()
        return self._call(message.job, "send", message.name, stage, len(message.pts), body)[0]

    def enter(self, message: BatchMessage, stage: str, worker: str) -> int:
        """A worker takes the batch up: which try it is, from 1; 0 for a late or double message.

        Raises SpentError when it was taken up too often, with the last failure's words.
        """
        answer = self._call(message.job, "enter", message.name, stage, worker, self._attempts)
        return self._started(f"{stage} of batch {message.name}", answer)

    def plan(self, message: BatchMessage) -> str | None:
        """The plan that the batch was rendered by; None once its chunk is done."""
        text = self._redis.hget(f"{_key(message.job)}:plans", message.name)
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

    def replace(self, message: ReplaceMessage) -> BatchMessage | None:
        """Give the batch up: its frames will show the last good one. A batch whose turn has come by
        that, if any. Idempotent."""
        answer = self._call(message.job, "replace", message.name, message.model_dump_json())
        return read_batch(answer[0]) if answer else None

    def replaced(self, job: str, *, unmade: bool = False) -> list[ReplaceMessage]:
        """All batches that were given up, or those that have no chunk yet, in display order."""
        rows = self._redis.hvals(f"{_key(job)}:replaced")
        found = [read_replace(str(row)) for row in rows]
        if unmade and found:
            chunks = self._redis.hmget(f"{_key(job)}:chunks", [each.name for each in found])
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
        total = int(self._redis.hget(_key(job), "segments_total") or 0)
        segment, batch, near = message.segment, message.batch + 1, True
        while segment < total or not total:
            count = self._redis.hget(f"{_key(job)}:batches", str(segment))
            if count is not None and batch >= int(count):
                segment, batch = segment + 1, 0
            elif (name := f"{segment}:{batch}") in given_up:
                batch, near = batch + 1, False
            else:
                text = self._redis.hget(f"{_key(job)}:chunks", name)
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
            count = self._redis.hget(f"{_key(job)}:batches", str(segment))
            if count is None:
                return None  # it is still being decoded
            batch = int(count)
        text = self._redis.hget(f"{_key(job)}:chunks", f"{segment}:{batch - 1}")
        return None if text is None else ChunkRecord.read_kept(str(text))

    def known_times(self, job: str, segment: int) -> dict[int, tuple[int, ...]]:
        """The segment's batches that are on their way, done or given up: batch -> its pts."""
        found = {
            f.message.batch: f.message.pts
            for f in self.flights(job)
            if f.message.segment == segment
        }
        found |= {m.batch: m.pts for m in self.replaced(job) if m.segment == segment}
        for name, text in self._redis.hgetall(f"{_key(job)}:chunks").items():
            of, _, batch = str(name).partition(":")
            if int(of) == segment:
                found[int(batch)] = ChunkRecord.read_kept(str(text)).pts
        return found

    def flights(self, job: str) -> Iterator[Flight]:
        """All batches on their way."""
        for name, entry in self._redis.hgetall(f"{_key(job)}:flight").items():
            stage, worker, _, body = str(entry).split(" ", 3)
            message = read_batch(body)
            yield Flight(str(name), stage, None if worker == "-" else worker, message)

    def is_bound(self, message: BatchMessage) -> bool:
        """True while the batch is on its way in the message's slot, in nobody's hands."""
        entry = self._redis.hget(f"{_key(message.job)}:flight", message.name)
        if entry is None:
            return False
        _, worker, _, body = str(entry).split(" ", 3)
        return worker == "-" and read_batch(body).slot.token == message.slot.token

    def parked(self, job: str) -> set[str]:
        """Names of the batches that wait for their turn."""
        return {str(name) for name in self._redis.hkeys(f"{_key(job)}:parked")}

    def chunks(self, job: str) -> list[ChunkRecord]:
        """All chunks in the order of display."""
        rows = self._redis.hgetall(f"{_key(job)}:chunks")
        order = sorted(rows, key=lambda name: tuple(int(part) for part in str(name).split(":")))
        return [ChunkRecord.read_kept(str(rows[name])) for name in order]

    def counter(self, job: str, name: str) -> int:
        """A counter of the report, 0 when nothing was counted."""
        return int(float(self._redis.hget(_key(job), name) or 0))

    # --- all jobs at once: what the coordinator asks --------------------------------------------

    def due(
        self, *, decoders: int, per_job: int, splits: int, ahead: int, count: int
    ) -> list[SplitMessage | MuxMessage | SegmentMessage]:
        """What is to be sent now, at most `count` of them; who asked sends it.

        `decoders` segments and `splits` splits may be out at a time, `per_job` segments of one job.
        Of each priority at most `ahead` jobs are split before their segments are needed. Segments
        are shared out fairly by priority, splits likewise, the oldest of a priority first.
        """
        answer = self._call("", "due", decoders, per_job, splits, ahead, count)
        return [_due(*answer[at : at + 5]) for at in range(0, len(answer), 5)]

    def unclaimed(self) -> list[SplitMessage | MuxMessage]:
        """Splits and muxes, due or sent, that nobody has in hands."""
        answer = self._call("", "unclaimed")
        pairs = zip(answer[::2], answer[1::2], strict=True)
        return [
            SplitMessage(job=job) if kind == "split" else MuxMessage(job=job) for kind, job in pairs
        ]

    def admitted(self, job: str) -> bool:
        """True for a live job that may be split, or was."""
        return self._redis.zscore(f"{INDEX}open", job) is not None

    def open(self, start: int, count: int) -> list[str]:
        """Jobs admitted and not ended, a page of them, oldest first: all that have work out."""
        return [str(job) for job in self._redis.zrange(f"{INDEX}open", start, start + count - 1)]

    def mend(self, start: int, count: int) -> int:
        """Write the index entries of a page of live jobs anew; how many it had."""
        return int(self._call("", "mend", start, count)[0])

    def changed(self, count: int) -> list[str]:
        """Live jobs whose progress changed since they were last in an answer, `count` at most."""
        return self._call("", "changed", count)

    def to_clean(self, count: int) -> list[str]:
        """Some of `ended`."""
        return [str(job) for job in self._redis.srandmember(ENDED, count) or []]

    def cleaned(self, job: str) -> bool:
        """All of an ended job but what is kept is gone from store and leases; False when it was
        submitted again meanwhile. Its record stays for `bury`, and expires `GRACE_S` later than
        that would come if nobody calls it."""
        return self._call(job, "cleaned", self._retention_s + GRACE_S) == ["1"]

    def outlived(self, count: int) -> list[str]:
        """Jobs that ended `retention_s` ago or earlier, oldest first: their objects go now."""
        return self._call("", "outlived", self._retention_s * 1000, count)

    def bury(self, job: str) -> bool:
        """Drop the record, the last of a job; False when it was submitted again meanwhile."""
        return self._call(job, "bury", self._retention_s * 1000) == ["1"]

    # --- webhooks ------------------------------------------------------------------------------

    def hooks(self, claim_s: float, count: int) -> list[tuple[str, int]]:
        """Ended jobs whose webhook is to be called now, and which try it is, from 1. Each comes
        again after `claim_s`, unless `hook_later` or `unhook` is called before."""
        answer = self._call("", "hooks", int(claim_s * 1000), count)
        return [(job, int(tries)) for job, tries in zip(answer[::2], answer[1::2], strict=True)]

    def hook_later(self, job: str, delay_s: float) -> None:
        """Have the job's webhook called again after `delay_s`."""
        self._call(job, "hook_later", int(delay_s * 1000))

    def unhook(self, job: str) -> None:
        """The job's webhook was called, or is given up."""
        self._call(job, "unhook")

    # --- lists and events: what people watch ----------------------------------------------------

    def listed(
        self, owner: str | None, state: str = "any", cursor: str | None = None, count: int = 50
    ) -> Page:
        """Jobs of `owner` (None: of all), newest first, from `cursor` on, at most `count`.

        `state`: a JobState, `live` (not ended) or `any`. Jobs that appear or change state meanwhile
        neither shift pages nor show up twice. Raises ValueError for a cursor that is none.
        """
        scope, key = _list(owner, state)
        since, after = _position(cursor)
        found: list[tuple[str, float]] = []
        skipped = 0
        while len(found) <= count:
            rows = self._redis.zrevrangebyscore(
                key, since, "-inf", start=skipped, num=count + 1, withscores=True
            )
            # Equal times are in reverse order of their names.
            pairs = [(str(row[0]), float(row[1])) for row in rows]
            found += [(j, s) for j, s in pairs if after is None or (s, j) < after]
            skipped += len(rows)
            if len(rows) <= count:
                break
        page = found[:count]
        more = len(found) > count
        jobs = [job for job, _ in page]
        self._unlist(scope, state, jobs)
        return Page(jobs, f"{page[-1][1]:.0f}-{page[-1][0]}" if more else None)

    def count(self, owner: str | None, state: str = "any") -> int:
        """How many jobs `listed` would give in all."""
        return int(self._redis.zcard(_list(owner, state)[1]))

    def _unlist(self, scope: str, state: str, jobs: Sequence[str]) -> None:
        """Of a page that was read: records expire where no coordinator buries them."""
        pipeline = self._redis.pipeline(transaction=False)
        for job in jobs:
            pipeline.exists(_key(job))
        found = pipeline.execute() if jobs else []
        gone = [job for job, there in zip(jobs, found, strict=True) if not there]
        if gone:
            self._call("", "unlist", scope, state, *gone)

    def events(self, job: str, after: str | None = None, count: int = 100) -> list[Event]:
        """What happened to the job after the event with id `after` (None: all that is kept).

        Raises ValueError when `after` is no id of an event.
        """
        if after is not None and not EVENT_ID.fullmatch(after):
            raise ValueError(f"not an event: {after!r}")
        start = "-" if after is None else f"({after}"
        rows = self._redis.xrange(f"{_key(job)}:events", min=start, max="+", count=count)
        return [_event(name, row) for name, row in rows or ()]

    def rate(self, job: str) -> float | None:
        """Frames per second that the latest chunks came with; None while there are too few."""
        rows = self._redis.xrevrange(f"{_key(job)}:events", count=RATE_EVENTS)
        events = [_event(name, row) for name, row in rows or ()]
        points = [
            (int(event.id.partition("-")[0]), int(event.data.split()[1]))
            for event in events
            if event.kind == "progress"
        ]
        if len(points) < 2:
            return None
        (last_ms, frames), (first_ms, before) = points[0], points[-1]
        return max(0, frames - before) * 1000 / max(1, last_ms - first_ms)

    # --- the coordinator's bell -----------------------------------------------------------------

    def ring(self) -> None:
        """Have `wait_for_change` return at once."""
        self._call("", "ring")

    def wait_for_change(self, timeout_s: float) -> None:
        """Block until something changed, at most `timeout_s` (1 s or more)."""
        self._redis.brpop([WAKE], timeout=timeout_s)

    def _started(self, what: str, answer: list[str]) -> int:
        if answer[0] == "spent":
            code, _, reason = answer[1].partition(" ")
            raise SpentError(
                ErrorCode(code or ErrorCode.STAGE_FAILED),
                reason or f"{what} failed {self._attempts} times; the logs of the workers say why.",
            )
        return int(answer[1]) if answer[0] == "go" else 0

    def _end(self, job: str, state: JobState, code: str, message: str, result: str) -> bool:
        now = int(time.time() * 1000)
        args = (job, state.value, code, message, result, self._retention_s, now)
        return self._call(job, "finish", *args) == ["1"]

    def _field(self, job: str, field: str) -> str:
        value = self._redis.hget(_key(job), field)
        if value is None:
            raise PermanentError(ErrorCode.STALE, f"The job {job} is unknown (it has no {field}).")
        return str(value)

    def _call(self, job: str, operation: str, *args: str | int | float) -> list[str]:
        keys = [LIVE, WAKE, _key(job), f"{_key(job)}:", ENDED, INDEX, _key("")]
        return self._script.call(operation, keys, *args)


def _due(
    kind: str, job: str, segment: str, attempt: str, batch_frames: str
) -> SplitMessage | MuxMessage | SegmentMessage:
    if kind == "split":
        return SplitMessage(job=job)
    if kind == "mux":
        return MuxMessage(job=job)
    return SegmentMessage(
        job=job,
        segment=Segment.read_kept(segment),
        batch_frames=int(batch_frames),
        attempt=int(attempt),
    )


def _key(job: str) -> str:
    return f"df:job:{job}"


def _event(name: object, row: Mapping[Any, Any] | None) -> Event:
    facts = row or {}
    return Event(str(name), str(facts.get("type", "")), str(facts.get("data", "")))


def _moment(text: str | None) -> int | None:
    return int(float(text)) if text else None


def _list(owner: str | None, state: str) -> tuple[str, str]:
    """Scope and key of a list of jobs; `owner` None: of all."""
    scope = "all" if owner is None else f"of:{owner}"
    return scope, f"{INDEX}list:{scope}:{state}"


def _position(cursor: str | None) -> tuple[float | str, tuple[float, str] | None]:
    """Where a page begins: highest score, and the last entry before it."""
    if cursor is None:
        return "+inf", None
    since, dash, job = cursor.partition("-")
    if not (dash and since.isdecimal() and len(since) < 16):
        raise ValueError(f"not a cursor: {cursor!r}")
    return float(since), (float(since), job)


def _sum(losses: Sequence[str]) -> Losses:
    rows = [row.split() for row in losses]
    return Losses(*(sum(int(row[at]) for row in rows) for at in range(4)))


def _view(job: str, row: Mapping[str, str], lost: Sequence[str]) -> JobView:
    done = [int(row.get(f"frames_{stage}", 0)) for stage in STAGES]
    cpu = {
        key.removeprefix("cpu_ms_"): float(value) / 1000
        for key, value in row.items()
        if key.startswith("cpu_ms_")
    }
    engines = {
        key.removeprefix("engine_"): value
        for key, value in row.items()
        if key.startswith("engine_")
    }
    result = row.get("result")
    spec = JobSpec.read_kept(row["spec"])
    losses = _sum(lost)
    return JobView(
        job=job,
        state=JobState(row["state"]),
        name=spec.name,
        expected=int(row.get("frames_expected", 0)) - losses.lost - losses.dropped,
        done=(done[0], done[1], done[2], done[3]),
        cpu_s=cpu,
        engines=engines,
        submitted_ms=int(row["submitted_ms"]),
        spec=spec,
        owner=row.get("owner", ""),
        started_ms=_moment(row.get("started_ms")),
        ended_ms=_moment(row.get("ended_ms")),
        code=row.get("code", ""),
        message=row.get("message", ""),
        result=JobResult.read_kept(result) if result else None,
    )
