"""Where a job's objects lie in the store."""

from __future__ import annotations

from datetime import date
from pathlib import PurePosixPath

JOBS = "jobs"
"""Above everything of every job."""


def job_folder(job: str) -> str:
    """Everything of the job."""
    return f"{JOBS}/{job}"


def source_key(job: str, suffix: str) -> str:
    """The source; `suffix` (".mp4") is kept for people who look into the store."""
    return f"jobs/{job}/source{suffix}"


def source_of(job: str, source: str) -> str:
    """The key of a job's source, from what its spec says: that key, or an address that the bytes
    are fetched from before anything else (`shared.references`)."""
    _, mark, rest = source.partition("://")
    if not mark:
        return source
    _, _, path = rest.partition("/")
    suffix = PurePosixPath(path.partition("?")[0].partition("#")[0]).suffix
    plain = suffix.isascii() and suffix[1:].isalnum() and len(suffix) <= 8
    return source_key(job, suffix.lower() if plain else "")


def segment_key(job: str, name: str) -> str:
    """A segment, by its file name."""
    return f"jobs/{job}/segments/{name}"


def chunk_key(job: str, segment: int, batch: int) -> str:
    """A chunk; names sort in the order of display."""
    return f"jobs/{job}/chunks/{segment:06d}-{batch:06d}.nut"


def track_key(job: str, segment: int, batch: int) -> str:
    """A batch's part of the tracks; the parts, one after the other, are the whole."""
    return f"jobs/{job}/tracks/{segment:06d}-{batch:06d}.jsonl.gz"


def thumbnail_folder(job: str) -> str:
    """Above all thumbnails of the job."""
    return f"jobs/{job}/thumbnails"


def thumbnail_key(job: str, segment: int, batch: int) -> str:
    """A small picture of a chunk's first frame; names sort in the order of display."""
    return f"{thumbnail_folder(job)}/{segment:06d}-{batch:06d}.jpg"


def tracks_key(job: str) -> str:
    """Where every frame of the result came from; see `shared/tracks.py`."""
    return f"jobs/{job}/tracks.jsonl.gz"


def report_key(job: str) -> str:
    """What was made of the job, and how."""
    return f"jobs/{job}/report.json"


def result_key(job: str, container: str) -> str:
    """The result."""
    return f"jobs/{job}/result.{container}"


ENGINES = "engines"
"""Above what detection compiled for GPUs."""

ENGINE_LOGS = f"{ENGINES}/logs"
"""Above the logs of compiling: kept until the day that is part of their key."""


def engine_key(recipe: str) -> str:
    """A compiled engine, by its recipe's digest."""
    return f"{ENGINES}/{recipe}.engine"


def engine_timing_key(digest: str) -> str:
    """What was measured while compiling on one kind of GPU."""
    return f"{ENGINES}/timing/{digest}.cache"


def engine_log_key(until: date, name: str) -> str:
    """A log of compiling, kept until the end of that day."""
    return f"{ENGINE_LOGS}/{until.isoformat()}/{name}.txt"
