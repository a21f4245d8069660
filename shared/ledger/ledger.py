"""Typed front of `ledger.lua`; every method that changes something is one atomic transition."""

from __future__ import annotations

import time
from collections.abc import Iterator

from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.jobs import JobSpec, JobState, OutputPlan, Segment, SourceInfo
from shared.ledger.records import (
    STAGES,
    ChunkRecord,
    Facts,
    Flight,
    JobResult,
    JobView,
    Losses,
    Turn,
)
from shared.messages import BatchMessage
from shared.redisdb import Connection, Script

LIVE = "df:jobs:live"
ENDED = "df:jobs:ended"
WAKE = "df:wake"
PARTS = (
    "segments", "ready", "running", "attempts", "batches", "losses", "redo", "flight", "faces",
    "plans", "parked", "chunks", "tracker", "hands", "tries", "why",
)  # fmt: skip


class Ledger:
    """The ledger of one Redis. `now` is only written down for people; deadlines are Redis's."""

    def __init__(self, connection: Connection, retention_s: int, attempts: int) -> None:
        """`attempts`: tries of one piece of work, in all; ended jobs live for `retention_s`."""
        self._redis = connection
        self._attempts = attempts
        self._script = Script(connection, "shared.ledger", "ledger.lua")
        self._retention_s = retention_s

    # --- jobs -----------------------------------------------------------------------------------

    def submit(self, job: str, spec: JobSpec) -> JobState:
        """Enter a job as queued. An id that is known keeps its state, unless it failed."""
        answer = self._call(job, "submit", job, spec.model_dump_json(), int(time.time() * 1000))
        return JobState.QUEUED if answer == ["new"] else JobState(answer[0])

    def live(self) -> list[str]:
        """Jobs that have not ended, oldest first."""
        return [str(job) for job in self._redis.zrange(LIVE, 0, -1)]

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
        return JobSpec.model_validate_json(self._field(job, "spec"))

    def facts(self, job: str) -> Facts:
        """Request, source and output plan. Raises PermanentError STALE before the split began."""
        return Facts(
            self.spec(job),
            SourceInfo.model_validate_json(self._field(job, "source")),
            OutputPlan.model_validate_json(self._field(job, "output")),
        )

    def batch_frames(self, job: str) -> int:
        """Most frames of a batch of this job; the same for the whole job."""
        return int(self._field(job, "batch_frames"))

    def view(self, job: str) -> JobView | None:
        """The job as people see it, None when unknown."""
        row = {str(k): str(v) for k, v in self._redis.hgetall(_key(job)).items()}
        if "state" not in row:
            return None
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
        losses = self.losses(job)
        return JobView(
            job=job,
            state=JobState(row["state"]),
            name=JobSpec.model_validate_json(row["spec"]).name,
            expected=int(row.get("frames_expected", 0)) - losses.lost - losses.dropped,
            done=(done[0], done[1], done[2], done[3]),
            cpu_s=cpu,
            engines=engines,
            submitted_ms=int(row["submitted_ms"]),
            code=row.get("code", ""),
            message=row.get("message", ""),
            result=JobResult.model_validate_json(result) if result else None,
        )

    def finish(self, job: str, result: JobResult) -> bool:
        """The job succeeded. False when it had ended before."""
        return self._end(job, JobState.SUCCEEDED, "", "", result.model_dump_json())

    def fail(self, job: str, code: ErrorCode, message: str) -> bool:
        """The job failed. False when it had ended before."""
        state = JobState.CANCELLED if code is ErrorCode.CANCELLED else JobState.FAILED
        return self._end(job, state, code.value, message, "")

    def ended(self) -> list[str]:
        """Jobs that ended and were not cleaned up after yet."""
        return [str(job) for job in self._redis.smembers(ENDED)]

    def forget(self, job: str) -> None:
        """Drop everything of an ended job but its record."""
        self._redis.delete(*(f"{_key(job)}:{part}" for part in PARTS))
        self._redis.srem(ENDED, job)

    def drop(self, job: str) -> None:
        """Drop the record too."""
        self.forget(job)
        self._redis.delete(_key(job))

    def add(self, job: str, **amounts: float) -> None:
        """Add to counters of the report, for example `cpu_ms_decode`."""
        flat: list[str | float] = []
        for name, amount in amounts.items():
            flat += [name, amount]
        self._call(job, "add", *flat)

    def note_engine(self, job: str, stage: str, engine: str) -> None:
        """Write down which engine serves `stage` for this job."""
        self._call(job, "engine", stage, engine)

    # --- splitting and segments -----------------------------------------------------------------

    def take(self, job: str, item: str, worker: str) -> bool:
        """Take up `split`, `mux` or `segment:N`; False for a late or double message.

        Raises PermanentError when it was taken up too often, with the last failure's words.
        """
        return self._started(item, self._call(job, "take", item, worker, self._attempts))

    def let_go(self, job: str, item: str, worker: str, why: DualfaceError | None = None) -> None:
        """The worker no longer works on the item (as `Message.item` names it); `why` if it failed,
        kept for the case that it fails once too often."""
        reason = "" if why is None else f"{why.code.value} {why.message}"
        self._call(job, "let_go", item, worker, reason)

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
        return (Segment.model_validate_json(answer[0]), int(answer[1])) if answer else None

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
        return BatchMessage.model_validate_json(answer[0]) if answer else None

    def running(self, job: str) -> dict[int, int]:
        """Segments that are with a decoder: index -> attempt."""
        rows = self._redis.hgetall(f"{_key(job)}:running")
        return {int(index): int(attempt) for index, attempt in rows.items()}

    def losses(self, job: str) -> Losses:
        """What the segments decoded so far have lost, in sum."""
        rows = [str(row).split() for row in self._redis.hvals(f"{_key(job)}:losses")]
        return Losses(*(sum(int(row[at]) for row in rows) for at in range(4)))

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

    def enter(self, message: BatchMessage, stage: str, worker: str) -> bool:
        """A worker takes the batch up; False for a late or double message.

        Raises PermanentError when it was taken up too often, with the last failure's words.
        """
        answer = self._call(message.job, "enter", message.name, stage, worker, self._attempts)
        return self._started(f"{stage} of batch {message.name}", answer)

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
        return BatchMessage.model_validate_json(answer[0]) if answer else None

    def chunk_done(self, message: BatchMessage, chunk: ChunkRecord) -> bool:
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
        return [BatchMessage.model_validate_json(body) for body in answer]

    def flights(self, job: str) -> Iterator[Flight]:
        """All batches on their way."""
        for name, entry in self._redis.hgetall(f"{_key(job)}:flight").items():
            stage, worker, _, body = str(entry).split(" ", 3)
            message = BatchMessage.model_validate_json(body)
            yield Flight(str(name), stage, None if worker == "-" else worker, message)

    def parked(self, job: str) -> set[str]:
        """Names of the batches that wait for their turn."""
        return {str(name) for name in self._redis.hkeys(f"{_key(job)}:parked")}

    def chunks(self, job: str) -> list[ChunkRecord]:
        """All chunks in the order of display."""
        rows = self._redis.hgetall(f"{_key(job)}:chunks")
        order = sorted(rows, key=lambda name: tuple(int(part) for part in str(name).split(":")))
        return [ChunkRecord.model_validate_json(str(rows[name])) for name in order]

    def counter(self, job: str, name: str) -> int:
        """A counter of the report, 0 when nothing was counted."""
        return int(float(self._redis.hget(_key(job), name) or 0))

    # --- the coordinator's bell -----------------------------------------------------------------

    def wait_for_change(self, timeout_s: float) -> None:
        """Block until something changed, at most `timeout_s` (1 s or more)."""
        self._redis.brpop([WAKE], timeout=timeout_s)

    def _started(self, what: str, answer: list[str]) -> bool:
        if answer[0] == "spent":
            code, _, reason = answer[1].partition(" ")
            raise PermanentError(
                ErrorCode(code or ErrorCode.STAGE_FAILED),
                reason or f"{what} failed {self._attempts} times; the logs of the workers say why.",
            )
        return answer == ["go"]

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
        return self._script.call(operation, [LIVE, WAKE, _key(job), f"{_key(job)}:", ENDED], *args)


def _key(job: str) -> str:
    return f"df:job:{job}"
