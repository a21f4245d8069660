"""What the coordinator does next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.jobs import JobState, Segment
from shared.ledger.base import ENDED, INDEX, WAKE, Base, key_of
from shared.ledger.records import HookCall, Standing
from shared.messages import MuxMessage, SegmentMessage, SplitMessage

PAGE = 1000
"""Jobs looked at in one round trip."""
HOOKS_LOOKED_AT = 250
"""Webhooks of owners with calls enough that one claim passes over: a millisecond of Redis."""
GRACE_S = 86400
"""How much longer than asked for a record stays when no coordinator is there to bury it."""


class Agenda(Base):
    """All jobs at once: what is due, what changed, what goes."""

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

    def standings(self, jobs: Sequence[str]) -> list[Standing]:
        """How far those of `jobs` are that are known and have not ended; one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for job in jobs:
            key = key_of(job)
            pipeline.hmget(key, "state", "chunks_done")
            for part in ("segments", "replaced", "running", "flight"):
                pipeline.hlen(f"{key}:{part}")
            pipeline.zcard(f"{key}:ready")
        answers = iter(pipeline.execute() if jobs else [])
        rows = zip(*[answers] * 6, strict=True)  # of each job
        standings = (_standing(job, *row) for job, row in zip(jobs, rows, strict=True))
        return [each for each in standings if each is not None]

    def longest_queued_ms(self) -> int | None:
        """When the job that is queued for longest was submitted, ms since 1970; None: none is."""
        rows = self._redis.zrange(f"{INDEX}list:all:queued", 0, 0, withscores=True)
        return int(rows[0][1]) if rows else None

    def slot_bytes(self, job: str) -> int:
        """What a slot of an arena must have for the job's batches; 0: any will do."""
        return int(self._redis.hget(key_of(job), "slot_bytes") or 0)

    def largest_slot_bytes(self) -> int:
        """What slots must have for every job that has work out, 0 when there is none."""
        most, start = 0, 0
        while jobs := self.open(start, PAGE):
            pipeline = self._redis.pipeline(transaction=False)
            for job in jobs:
                pipeline.hget(key_of(job), "slot_bytes")
            most = max(most, *(int(each or 0) for each in pipeline.execute()))
            start += PAGE
        return most

    def mend(self, start: int, count: int) -> int:
        """Write the index entries of a page of live jobs anew; how many it had."""
        return int(self._call("", "mend", start, count)[0])

    def changed(self, count: int) -> list[str]:
        """Live jobs whose progress changed since they were last in an answer, `count` at most."""
        return self._call("", "changed", count)

    def to_clean(self, count: int) -> list[str]:
        """Some of `ended` of which no worker that lives has anything in hands: nobody will write
        for them any more."""
        some = [str(job) for job in self._redis.srandmember(ENDED, count) or []]
        return self._call("", "unheld", *some) if some else []

    def cleaned(self, job: str) -> bool:
        """All of an ended job but what is kept is gone from store and leases; False when it was
        submitted again meanwhile, or this is not the first time. Its record stays for `bury`, and
        expires `GRACE_S` later than that would come if nobody calls it."""
        return self._call(job, "cleaned", self._retention_s + GRACE_S) == ["1"]

    def outlived(self, look: int) -> str | None:
        """A job that ended `retention_s` ago or earlier, of the oldest `look`: its objects go now.

        It `is_ending` until `bury`; should that never come, `to_clean` has it once more."""
        answer = self._call("", "outlived", self._retention_s * 1000, look)
        return answer[0] if answer else None

    def bury(self, job: str) -> bool:
        """Drop the record, the last of a job; False when somebody submitted or dropped it."""
        return self._call(job, "bury", self._retention_s * 1000) == ["1"]

    def hooks(
        self, claim_s: float, count: int, per_owner: int, calls: Mapping[str, int]
    ) -> list[HookCall]:
        """Ended jobs whose webhook is to be called now: at most `count`, and none by which an owner
        would have more than `per_owner` under way.

        `calls`: how many each owner has under way. Each job comes again after `claim_s`, unless
        `hook_later` or `unhook` is called before.
        """
        claim_ms, busy = int(claim_s * 1000), [each for pair in calls.items() for each in pair]
        answer = self._call("", "hooks", claim_ms, count, per_owner, HOOKS_LOOKED_AT, *busy)
        rows = zip(*[iter(answer)] * 4, strict=True)
        return [HookCall(job, int(tries), owner, end) for job, tries, owner, end in rows]

    def hook_later(self, call: HookCall, delay_s: float) -> None:
        """Have the webhook called again after `delay_s`. Nothing, like `unhook`, when the job has
        been made again since: another end is to be told then."""
        self._call(call.job, "hook_later", call.end, int(delay_s * 1000))

    def unhook(self, call: HookCall) -> None:
        """The webhook was called, or is given up."""
        self._call(call.job, "unhook", call.end)

    def wait_for_change(self, timeout_s: float) -> None:
        """Block until something changed, at most `timeout_s` (1 s or more)."""
        self._redis.brpop([WAKE], timeout=timeout_s)


def _standing(
    job: str, row: Sequence[str | None], cut: int, replaced: int, running: int, flight: int,
    ready: int,
) -> Standing | None:  # fmt: skip
    state = None if row[0] is None else JobState(row[0])
    if state is None or state.ended:
        return None
    steps = cut + replaced + int(row[1] or 0)
    return Standing(job, state, steps, waits=ready > 0 and not running and not flight)


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
