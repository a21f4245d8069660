"""Facts about what goes where, and what goes at the end."""

from __future__ import annotations

from collections import Counter

import pytest

from services.coordinator.plan import arena_of, going
from shared.jobs import JobState

KEYS = [
    "jobs/j/chunks/000000-000000.nut",
    "jobs/j/chunks/result.nut",
    "jobs/j/report.json",
    "jobs/j/result.mp4",
    "jobs/j/segments/000000.nut",
    "jobs/j/source.mp4",
    "jobs/j/thumbnails/000000-000000.jpg",
    "jobs/j/tracks.jsonl.gz",
    "jobs/j/tracks/000000-000000.jsonl.gz",
]
MADE = {"report.json", "result.mp4", "thumbnails/000000-000000.jpg", "tracks.jsonl.gz"}


def test_segments_of_a_job_go_to_all_arenas_alike() -> None:
    assert set(Counter(arena_of("j", index, 4) for index in range(40)).values()) == {10}


def test_first_segments_of_jobs_go_to_different_arenas() -> None:
    assert {arena_of(f"job{number}", 0, 4) for number in range(10)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("state", "keep_source", "stay"),
    [
        (JobState.SUCCEEDED, False, MADE),
        (JobState.SUCCEEDED, True, MADE | {"source.mp4"}),
        (JobState.FAILED, True, {"source.mp4"}),
        (JobState.FAILED, False, {"source.mp4"}),
        (JobState.CANCELLED, True, set()),
    ],
)
def test_what_stays_at_the_end_follows_from_how_it_ended(
    state: JobState, keep_source: bool, stay: set[str]
) -> None:
    gone = going(KEYS, state, keep_source=keep_source)
    left = {key for key in KEYS if not any(key == g or key.startswith(g + "/") for g in gone)}
    assert left == {f"jobs/j/{name}" for name in stay}
