"""Pure decisions: which arena a segment goes to, what of an ended job goes at once.

Whose segment goes next is decided in `shared/ledger/lua` (`charge`, `admit`): in the script
that takes it, so that it costs the same with a thousand jobs, and a successor decides alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from shared.jobs import JobState

KEPT = {
    JobState.SUCCEEDED: ("result", "report", "tracks.jsonl", "thumbnails"),
    JobState.FAILED: ("source",),
}
"""Objects of an ended job that stay as long as its record, by name without the last suffix: what it
was made for, or what it can be tried again from. (`tracks` alone are the parts of the tracks.)"""


def arena_of(job: str, segment: int, arenas: int) -> int:
    """Number of the arena, below `arenas`, that gets the segment: round robin, each job from
    another one on; the fleet is uniform. The same in every process (str.__hash__ is not)."""
    return (sum(job.encode()) + segment) % arenas


def going(keys: Iterable[str], state: JobState, *, keep_source: bool) -> list[str]:
    """What to delete at once of an ended job with these `keys`: objects right in the job's folder,
    and whole folders below it. `keep_source` is for jobs that succeeded."""
    stay = KEPT.get(state, ())
    if keep_source and state is JobState.SUCCEEDED:
        stay = (*stay, "source")
    tops = dict.fromkeys("/".join(PurePosixPath(key).parts[:3]) for key in keys)
    return [top for top in tops if PurePosixPath(top).stem not in stay]
