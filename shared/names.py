"""Where a job's objects lie in the store."""

from __future__ import annotations

JOBS = "jobs"
"""Above everything of every job."""


def job_folder(job: str) -> str:
    """Everything of the job."""
    return f"{JOBS}/{job}"


def source_key(job: str, suffix: str) -> str:
    """The source; `suffix` (".mp4") is kept for people who look into the store."""
    return f"jobs/{job}/source{suffix}"


def segment_key(job: str, name: str) -> str:
    """A segment, by its file name."""
    return f"jobs/{job}/segments/{name}"


def chunk_key(job: str, segment: int, batch: int) -> str:
    """A chunk; names sort in the order of display."""
    return f"jobs/{job}/chunks/{segment:06d}-{batch:06d}.nut"


def result_key(job: str, container: str) -> str:
    """The result, the one object that outlives its job."""
    return f"jobs/{job}/result.{container}"
