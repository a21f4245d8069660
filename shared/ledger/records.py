"""What the ledger tells: typed views of its fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from shared.jobs import JobSpec, JobState, Model, OutputPlan, SourceInfo
from shared.messages import BatchMessage

STAGES = ("decode", "infer", "compose", "encode")
"""In the order of the flow."""


class ChunkRecord(Model):
    """One batch's encoded output in the store."""

    key: str
    pts: tuple[int, ...]
    size_bytes: int
    replaced: bool = Field(default=False, description="shows the frame before, all through")

    @property
    def frames(self) -> int:
        """How many frames are in it."""
        return len(self.pts)


class JobResult(Model):
    """What a job that succeeded gives; also what `AsyncResult(job).get()` returns."""

    key: str
    frames: int
    frames_lost: int = 0
    times_repaired: int = 0
    frames_dropped: int = 0
    frames_concealed: int = 0
    frames_replaced: int = 0
    people: int = 0
    sounds_copied: int = 0
    sounds_encoded: int = 0
    warnings: tuple[str, ...] = ()


class Losses(NamedTuple):
    """Frames: not decodable, shown at a repaired time, dropped by the frame-rate limit, shown with
    damage that the decoder concealed."""

    lost: int
    repaired: int
    dropped: int
    concealed: int


class HookCall(NamedTuple):
    """A call of an ended job's webhook that is to be made now: which try it is, from 1, whose job
    it is, and which of the job's ends it tells of, as the script names it."""

    job: str
    tries: int
    owner: str
    end: str


def sum_of(losses: Sequence[str]) -> Losses:
    """Of rows as the script keeps them: four numbers each."""
    rows = [row.split() for row in losses]
    return Losses(*(sum(int(row[at]) for row in rows) for at in range(4)))


@dataclass(frozen=True, slots=True)
class Facts:
    """What every stage needs to know of a job."""

    spec: JobSpec
    source: SourceInfo
    output: OutputPlan


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch on its way: the stage it is bound for and, when taken up, by which worker."""

    name: str
    stage: str
    worker: str | None
    message: BatchMessage


class Standing(NamedTuple):
    """How far a job is: `steps` grows with whatever of it is done for good. `waits`: it has
    segments whose turn has not come, and nothing of it is out."""

    job: str
    state: JobState
    steps: int
    waits: bool


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as people see it. Counts are frames; `done` has one count for each of STAGES.

    `owner` is the tenant, "" for jobs of the machine's own command; times are ms since 1970, None
    when it has not come to that; `decoding_ms`: when its first segment was taken up.
    """

    job: str
    state: JobState
    name: str
    expected: int
    done: tuple[int, int, int, int]
    cpu_s: dict[str, float]
    engines: dict[str, str]
    submitted_ms: int
    spec: JobSpec
    owner: str = ""
    started_ms: int | None = None
    decoding_ms: int | None = None
    ended_ms: int | None = None
    code: str = ""
    message: str = ""
    result: JobResult | None = None


class Event(NamedTuple):
    """Something that happened to a job. `id` grows; `kind` is `state`, `progress` or `warning`.

    `data`: "STATE FRAMES EXPECTED" of the first two; words of a warning.
    """

    id: str
    kind: str
    data: str


class Page(NamedTuple):
    """A page of a list of jobs, newest first; `cursor` leads to the next, None at the end."""

    jobs: list[str]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What a batch that was given up stands between.

    `before`: the chunk just before it, None at the beginning of a video. `after`: the next one with
    frames of its own, None at the end; `near` when it follows at once.
    """

    before: ChunkRecord | None
    after: ChunkRecord | None
    near: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """Answer to "is it this batch's turn to be tracked?".

    `plan`: it was tracked before. `faces`, `tracker`: its turn. All None: parked or stale.
    """

    plan: str | None = None
    faces: str | None = None
    tracker: str | None = None
