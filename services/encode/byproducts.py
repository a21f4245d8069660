"""What a job leaves beside its result: thumbnails, tracks, a report."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pydantic import Field

from services.encode.mux import MuxReport
from services.encode.plan import RateControl, wants_thumbnail
from services.encode.thumbnails import thumbnail
from shared.errors import ErrorCode, PermanentError, WorkOverError
from shared.jobs import JobSpec, Model, OutputPlan, SourceInfo
from shared.ledger import ChunkRecord, Facts, JobResult, JobView
from shared.logs import Log
from shared.media.layout import FrameLayout, Planes
from shared.messages import BatchMessage, ReplaceMessage
from shared.names import report_key, source_of, thumbnail_key, track_key, tracks_key
from shared.runtime import Runtime
from shared.settings import Settings
from shared.tracks import BatchPlan, TrackLine, track_lines

FASTEST = 1
"""Level of gzip, enough for lines that are much alike."""
PARTS_AT_ONCE = 64
"""Parts of tracks fetched together."""


# --- of each chunk ------------------------------------------------------------------------------


def make_thumbnail(
    message: BatchMessage | ReplaceMessage, facts: Facts, layout: FrameLayout, planes: Planes
) -> bytes | None:
    """The picture of a chunk's first frame, if it gets one, and if it can be made."""
    try:
        place = message.segment, message.batch, message.pts
        if wants_thumbnail(facts.source, facts.output, *place):
            return thumbnail(planes, layout, facts.output.color)
    except Exception:
        # Whatever is wrong with it: a picture to look at is no reason to lose a video.
        log = Log(stage="encode", job=message.job, item=message.item)
        log.exception("no thumbnail")
    return None


def put_thumbnail(
    runtime: Runtime, message: BatchMessage | ReplaceMessage, picture: bytes | None
) -> None:
    """Store the picture, if there is one; what goes wrong is logged."""
    if picture is None:
        return
    try:
        key = thumbnail_key(message.job, message.segment, message.batch)
        runtime.store.write(key, [picture])
    except WorkOverError:
        raise
    except Exception:
        # As above; where the store itself is at fault, the chunk's turn is next.
        log = Log(stage="encode", job=message.job, item=message.item)
        log.exception("no thumbnail")


def put_tracks(
    runtime: Runtime,
    message: BatchMessage | ReplaceMessage,
    facts: Facts,
    plan: str | None,
) -> None:
    """Store the chunk's part of the tracks, the same bytes every time; nothing for a batch without
    a plan, whose chunk another has done meanwhile.

    Here, as the plan is dropped from Redis when the chunk is done: all plans of a long video would
    take 100 bytes per frame of its memory.
    """
    replaced = isinstance(message, ReplaceMessage)
    if plan is None and not replaced:
        return
    known = None if plan is None else BatchPlan.read_kept(plan)
    lines = track_lines(known, message.pts, facts.source.tick_s, replaced=replaced)
    key = track_key(message.job, message.segment, message.batch)
    runtime.store.write(key, [_member(lines)])


def _member(lines: Iterator[TrackLine]) -> bytes:
    """One member of a gzip file."""
    text = "".join(f"{line.model_dump_json()}\n" for line in lines)
    return gzip.compress(text.encode(), FASTEST, mtime=0)


def remove_byproducts(runtime: Runtime, message: BatchMessage | ReplaceMessage) -> None:
    """Of a chunk whose job had ended before it was done."""
    place = message.job, message.segment, message.batch
    runtime.store.delete(track_key(*place))
    runtime.store.delete(thumbnail_key(*place))


# --- of the whole job ---------------------------------------------------------------------------


def put_all_tracks(runtime: Runtime, job: str, facts: Facts, chunks: Sequence[ChunkRecord]) -> None:
    """Store the tracks of the whole video, whose chunks are in order.

    Members of gzip, one after the other, are one file. Memory does not depend on their number.
    """

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(chunks), PARTS_AT_ONCE):
            runtime.checkpoint(job)
            yield from _parts(runtime, job, facts, chunks[start : start + PARTS_AT_ONCE])

    runtime.store.write(tracks_key(job), pieces())


def _parts(
    runtime: Runtime, job: str, facts: Facts, chunks: Sequence[ChunkRecord]
) -> Iterator[bytes]:
    """The parts of some chunks; one that is missing (of a release that made none) becomes lines
    without views."""
    store, keys = runtime.store, [_part_of(job, chunk) for chunk in chunks]
    try:
        with store.local_many(keys) as paths:
            found = {key: path.read_bytes() for key, path in zip(keys, paths, strict=True)}
    except PermanentError as error:
        if error.code is not ErrorCode.SOURCE_MISSING:
            raise
        found = {key: b"".join(store.read(key)) for key in keys if store.exists(key)}
    for key, chunk in zip(keys, chunks, strict=True):
        lines = track_lines(None, chunk.pts, facts.source.tick_s, replaced=chunk.replaced)
        yield found.get(key) or _member(lines)


def _part_of(job: str, chunk: ChunkRecord) -> str:
    segment, batch = PurePosixPath(chunk.key).stem.split("-")
    return track_key(job, int(segment), int(batch))


class Place(Model):
    """Frames of the source that something is said about, in seconds; None: to its end."""

    frames: int
    from_s: float | None
    to_s: float | None


class Times(Model):
    """Milliseconds since 1970, by the clocks of who wrote them down. `started`: when the first
    worker took the job up; `ended`: when this report was written, just before the job ended."""

    submitted_ms: int
    started_ms: int | None = None
    ended_ms: int


class JobReport(Model):
    """`report.json` of a job that succeeded: what was asked for, what came out, and how.

    `cpu_s` are CPU seconds by stage, the muxing so far included in encode's. `engines` by stage are
    those that served last. `shift_s` was added to all times of the source. `busy` counts the chunks
    that went to the next engine as the driver of the one before gave no session for too long.
    """

    v: int = 1
    job: str
    spec: JobSpec
    source: SourceInfo
    output: OutputPlan
    rate: RateControl
    result: JobResult
    duration_s: float
    size_bytes: int
    shift_s: float
    engines: dict[str, str]
    busy: int
    cpu_s: dict[str, float]
    times: Times
    versions: dict[str, str]
    model: dict[str, str] = Field(default={}, description="name and sha256 of the face detector")
    replaced: tuple[Place, ...] = Field(default=(), description="frames that show the one before")
    lost: tuple[Place, ...] = Field(
        default=(), description="frames that could not be decoded, by the segment they were in"
    )


def put_report(
    runtime: Runtime,
    view: JobView,
    facts: Facts,
    rate: RateControl,
    result: JobResult,
    muxed: MuxReport,
    mux_cpu_s: float,
) -> None:
    """Store the report of a job whose result was just made."""
    report = _report(runtime, view, facts, rate, result, muxed, mux_cpu_s)
    text = report.model_dump_json(indent=2)
    runtime.store.write(report_key(view.job), [text.encode(), b"\n"])


def _report(
    runtime: Runtime,
    view: JobView,
    facts: Facts,
    rate: RateControl,
    result: JobResult,
    muxed: MuxReport,
    mux_cpu_s: float,
) -> JobReport:
    ledger, job = runtime.ledger, view.job
    tick_s = facts.source.tick_s

    def seconds(pts: int | None) -> float | None:
        return None if pts is None else round(float(pts * tick_s), 6)

    cpu_s = {**view.cpu_s, "encode": view.cpu_s.get("encode", 0.0) + mux_cpu_s}
    return JobReport(
        job=job,
        # An address of a source may hold what is nobody's business but the fetcher's.
        spec=facts.spec.model_copy(update={"source": source_of(job, facts.spec.source)}),
        source=facts.source,
        output=facts.output,
        rate=rate,
        result=result,
        duration_s=muxed.duration_s,
        size_bytes=muxed.size_bytes,
        shift_s=muxed.shift[0] / muxed.shift[1],
        engines=view.engines,
        busy=ledger.counter(job, "busy_encode"),
        cpu_s={stage: round(spent, 4) for stage, spent in cpu_s.items()},
        times=Times(
            submitted_ms=view.submitted_ms,
            started_ms=view.started_ms,
            ended_ms=int(time.time() * 1000),
        ),
        versions=_versions(),
        model=_model(view.engines.get("infer", ""), runtime.settings),
        replaced=tuple(
            Place(frames=len(each.pts), from_s=seconds(each.pts[0]), to_s=seconds(each.pts[-1]))
            for each in ledger.replaced(job)
        ),
        lost=tuple(
            Place(
                frames=losses.lost,
                from_s=seconds(segment.first_pts),
                to_s=seconds(segment.end_pts),
            )
            for segment, losses in ledger.lossy(job)
            if losses.lost
        ),
    )


def _versions() -> dict[str, str]:
    import importlib.metadata as packages  # here: 20 ms that only the end of a job needs

    import av

    return {
        "dualface": packages.version("dualface"),
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
    }


def _model(engine: str, settings: Settings) -> dict[str, str]:
    """From an engine's name: ENGINE:MODEL, where a copy of another precision is MODEL.PRECISION.
    Nothing where this host does not have the model."""
    from shared.models import entry_of  # here: as above

    name = engine.partition(":")[2].removesuffix(".int8").removesuffix(".fp16")
    try:
        entry = entry_of(name, settings.cache_dir / "models", settings.model_folders)
    except PermanentError:
        return {}
    return {"name": entry.name, "sha256": entry.sha256}
