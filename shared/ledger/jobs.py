"""A job's record from its submission to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping

from shared.errors import DualfaceError, ErrorCode, PermanentError, TemporaryError, WorkOverError
from shared.jobs import JobSpec, JobState, OutputPlan, SourceInfo
from shared.ledger.base import ENDED, LIVE, Base, key_of
from shared.ledger.records import Facts, JobResult


class Jobs(Base):
    """A job, and its pieces of work in somebody's hands."""

    def submit(
        self,
        job: str,
        spec: JobSpec,
        owner: str = "",
        *,
        most_live: int = 0,
        webhook_secret: str = "",
        sent: str = "",
    ) -> JobState:
        """Enter a job as queued. An id that is known keeps its state, unless it failed.

        `most_live`: how many jobs of `owner` may not have ended; 0: any number. `webhook_secret`
        signs the job's webhook from here on; "": what signed it when it was submitted before.
        `sent`: of what bytes the source is, as its owner sent it, "SIZE" or "SIZE:SHA256"; "": they
        did not, or it is the source of before.
        Raises TemporaryError while an earlier try of the job is being cleaned up after: a client
        waits for the end of that (`is_ending`) before it stores the source. Raises PermanentError
        OVER_QUOTA for one job too many, BAD_OPTION for an id that another owner has.
        """
        text, now = spec.model_dump_json(), int(time.time() * 1000)
        more = (most_live, webhook_secret, sent)
        answer = self._call(job, "submit", job, text, now, owner, *more)
        if answer == ["ending"]:
            raise TemporaryError(ErrorCode.BUSY, f"The job {job} has just ended; try again.", 0.2)
        if answer == ["foreign"]:
            raise PermanentError(ErrorCode.BAD_OPTION, "A job with this id exists already.")
        if answer == ["full"]:
            raise over_quota(most_live)
        return JobState.QUEUED if answer == ["new"] else JobState(answer[0])

    def is_ending(self, job: str) -> bool:
        """True while an ended job's slots and objects have not been taken away yet."""
        return bool(self._redis.sismember(ENDED, job))

    def live(self) -> list[str]:
        """Jobs that have not ended, oldest first."""
        return [str(job) for job in self._redis.zrange(LIVE, 0, -1)]

    def state(self, job: str) -> JobState | None:
        """State of a job, None when unknown."""
        value = self._redis.hget(key_of(job), "state")
        return None if value is None else JobState(str(value))

    def is_live(self, job: str) -> bool:
        """False when the job ended or is unknown."""
        state = self.state(job)
        return state is not None and not state.ended

    def spec(self, job: str) -> JobSpec:
        """The request. Raises PermanentError STALE when the job is unknown."""
        return JobSpec.read_kept(self._field(job, "spec"))

    def webhook_secret(self, job: str) -> str:
        """What signs the job's webhook; "" when it was submitted without. In no view of a job."""
        return str(self._redis.hget(key_of(job), "webhook_secret") or "")

    def sent(self, job: str) -> str:
        """As `submit` was told; "" when it was not, as of jobs that an older release entered."""
        return str(self._redis.hget(key_of(job), "sent") or "")

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

    def drop(self, job: str) -> None:
        """Drop the record too."""
        self._call(job, "drop")

    def add(self, job: str, **amounts: float) -> None:
        """Add to counters of the report, for example `cpu_ms_decode`."""
        self._call(job, "add", *_flat(amounts))

    def counter(self, job: str, name: str) -> int:
        """A counter of the report, 0 when nothing was counted."""
        return int(float(self._redis.hget(key_of(job), name) or 0))

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

    def take(self, job: str, item: str, worker: str) -> int:
        """Take up `split`, `mux`, `segment:N`, `replace:S:B`: which try it is, from 1; 0 for a late
        or double message.

        Raises SpentError when it was taken up too often, with the last failure's words.
        """
        return self._which_try(item, self._call(job, "take", item, worker, self._attempts))

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

    def put_down(self, job: str, item: str, worker: str, **amounts: float) -> None:
        """The worker's task is over: what it still has of the item is in nobody's hands, whether
        the job has ended or not. `amounts` as in `add`."""
        self._call(job, "put_down", item, worker, *_flat(amounts))

    def hands(self, job: str) -> dict[str, str]:
        """Items in somebody's hands: item -> worker."""
        return {str(k): str(v) for k, v in self._redis.hgetall(f"{key_of(job)}:hands").items()}

    def _end(self, job: str, state: JobState, code: str, message: str, result: str) -> bool:
        now = int(time.time() * 1000)
        args = (job, state.value, code, message, result, self._retention_s, now)
        return self._call(job, "finish", *args) == ["1"]


def over_quota(most_live: int) -> PermanentError:
    """The error for one job more than an owner may have live."""
    return PermanentError(
        ErrorCode.OVER_QUOTA,
        f"{most_live} jobs are queued or running, which is the quota; wait for one to end, "
        "or cancel one.",
    )


def _flat(amounts: Mapping[str, float]) -> list[str | float]:
    return [each for pair in amounts.items() for each in pair]
