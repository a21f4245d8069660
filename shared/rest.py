"""What the API answers: the same models for the service and its Python client.

Times are RFC 3339 in UTC; counts are frames unless they say otherwise.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, Field

from shared.jobs import JobSpec, JobState
from shared.ledger import STAGES, Event, JobResult, JobView


class Progress(BaseModel):
    """How far a job is: frames encoded of frames expected (0: not known yet)."""

    frames: int
    expected: int
    share: float = Field(ge=0, le=1)
    frames_per_s: float | None = Field(description="of the latest chunks; null while unknown")
    seconds_left: float | None
    stages: dict[str, int] = Field(description="frames that each stage has done")


class Failure(BaseModel):
    """Why a job failed or was cancelled."""

    code: str
    message: str


class Job(BaseModel):
    """A job as its owner sees it."""

    id: str
    owner: str
    state: JobState
    name: str
    spec: JobSpec
    progress: Progress
    engines: dict[str, str]
    cpu_s: dict[str, float] = Field(description="CPU seconds by stage")
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: Failure | None
    result: JobResult | None
    links: dict[str, str]


class JobPage(BaseModel):
    """Newest first. `next` goes into `cursor`; null on the last page."""

    jobs: list[Job]
    next: str | None


class JobEvent(BaseModel):
    """What an event stream tells as the data of each event (`state`, `progress`, `warning`)."""

    state: JobState | None = None
    frames: int | None = None
    expected: int | None = None
    warning: str | None = None
    at: datetime


class Thumbnail(BaseModel):
    """A picture of the result as far as it is made; `name` sorts in the order of display."""

    name: str
    url: str


class Thumbnails(BaseModel):
    """All there are so far."""

    thumbnails: list[Thumbnail]


class UploadRequest(BaseModel):
    """An upload to come. `size_bytes` is needed for an upload straight to the object store."""

    name: str = Field(default="", max_length=255)
    size_bytes: int = Field(default=0, ge=0)
    direct: bool = Field(
        default=False, strict=True, description="by links into the object store, in parts"
    )


class UploadLinks(BaseModel):
    """An upload: send the bytes to `content` by PUT, or, if there are `parts`, to each of them.

    Part i holds bytes i * part_bytes and on; keep the ETag that each PUT answers.
    """

    id: str
    source: str = Field(description="what goes into a job's `source`")
    content: str
    part_bytes: int | None = None
    parts: list[str] | None = None


class UploadedPart(BaseModel):
    """One part that was sent straight to the store."""

    number: int = Field(ge=1, le=10000)
    etag: str = Field(min_length=1, max_length=200)


class UploadedParts(BaseModel):
    """All parts."""

    parts: list[UploadedPart] = Field(min_length=1, max_length=10000)


class Stored(BaseModel):
    """The upload is in the store."""

    id: str
    source: str
    size_bytes: int


class Session(BaseModel):
    """What a browser may do with the session it just got."""

    owner: str
    roles: list[str]


class WorkerOut(BaseModel):
    """A process that gave a sign of life lately."""

    id: str
    stage: str
    arena: str


class LimitOut(BaseModel):
    """Units of a limited thing: a pool of slots, or hardware sessions."""

    thing: str
    used: int
    capacity: int
    waiting: int


class GpuOut(BaseModel):
    """A GPU of a host that works for us, a few seconds ago. Null: the driver does not tell."""

    host: str
    uuid: str
    name: str
    memory_used_bytes: int | None = Field(description="by all programs")
    memory_total_bytes: int | None
    busy: float | None = Field(description="0 to 1 of the last second: kernels ran")
    decoder_busy: float | None = Field(description="0 to 1: NVDEC")
    encoder_busy: float | None = Field(description="0 to 1: NVENC")


class QueueOut(BaseModel):
    """Messages that nobody has taken up yet."""

    queue: str
    messages: int


class System(BaseModel):
    """The cluster as its operators see it."""

    version: str
    workers: list[WorkerOut]
    limits: list[LimitOut]
    queues: list[QueueOut]
    jobs: dict[str, int] = Field(description="by state")
    frames_per_s: float = Field(description="of all running jobs together")
    dead_letters: int
    gpus: list[GpuOut]
    engines: dict[str, dict[str, int]] = Field(
        description="by stage: how many of the running jobs (the 50 latest) each engine works for"
    )


class Health(BaseModel):
    """`ok`, or what is wrong."""

    status: str
    reasons: list[str] = []


def job_of(view: JobView, rate: float | None = None) -> Job:
    """`rate`: frames per second, None when it is not known."""
    encoded = view.done[STAGES.index("encode")]
    started = view.started_ms
    if view.state.ended:
        spent_ms = (view.ended_ms or 0) - (started or view.submitted_ms)
        rate = encoded * 1000 / spent_ms if encoded and spent_ms > 0 else None
    left = max(0, view.expected - encoded)
    return Job(
        id=view.job,
        owner=view.owner,
        state=view.state,
        name=view.name,
        spec=view.spec,
        progress=Progress(
            frames=encoded,
            expected=view.expected,
            share=_share(view.state, encoded, view.expected),
            frames_per_s=None if rate is None else round(rate, 1),
            seconds_left=round(left / rate, 1) if rate and not view.state.ended else None,
            stages=dict(zip(STAGES, view.done, strict=True)),
        ),
        engines=view.engines,
        cpu_s=view.cpu_s,
        submitted_at=_time(view.submitted_ms),
        started_at=None if started is None else _time(started),
        ended_at=None if view.ended_ms is None else _time(view.ended_ms),
        error=Failure(code=view.code, message=view.message) if view.code else None,
        result=view.result,
        links=_links(view),
    )


def event_of(event: Event) -> JobEvent:
    """The ledger's event for people and programs."""
    at = _time(int(event.id.partition("-")[0]))
    if event.kind == "warning":
        return JobEvent(warning=event.data, at=at)
    state, frames, expected = event.data.split()
    return JobEvent(
        state=JobState(state), frames=int(float(frames)), expected=int(float(expected)), at=at
    )


def _share(state: JobState, frames: int, expected: int) -> float:
    if state is JobState.SUCCEEDED:
        return 1.0
    return min(1.0, frames / expected) if expected > 0 else 0.0


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _links(view: JobView) -> dict[str, str]:
    base = f"/v1/jobs/{view.job}"
    links = {"self": base, "events": f"{base}/events", "thumbnails": f"{base}/thumbnails"}
    if view.state is JobState.SUCCEEDED:
        links |= {name: f"{base}/{name}" for name in ("result", "report", "tracks")}
    return links
