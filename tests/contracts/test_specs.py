"""Facts about what a job may be."""

from __future__ import annotations

import pytest

from client.api import Job
from shared.errors import PermanentError
from shared.jobs import JobSpec, JobState, read_spec
from shared.ledger import JobView
from shared.rest import job_of
from tests.builders import job_spec

LATER = ({"name": "n" * 256}, {"size": (33, 99999)}, {"preset": "zz"})
"""What was accepted before there was a limit for it."""


def test_the_longest_name_is_taken_and_a_longer_one_refused() -> None:
    assert len(read_spec({"source": "s", "name": "\N{CLAPPER BOARD}" * 255}).name) == 255
    with pytest.raises(PermanentError, match="255"):
        read_spec({"source": "s", "name": "n" * 256})


@pytest.mark.parametrize("given", LATER)
def test_limits_that_came_later_hold_for_new_jobs_and_leave_kept_ones_readable(
    given: dict[str, object],
) -> None:
    with pytest.raises(PermanentError):
        read_spec({"source": "s", **given})
    kept = job_spec(**given)
    assert JobSpec.read_kept(kept.model_dump_json()) == kept
    view = JobView(
        "j", JobState.FAILED, kept.name, 0, (0, 0, 0, 0), {}, {}, submitted_ms=0, spec=kept
    )
    shown = job_of(view).model_dump_json()
    assert Job.model_validate_json(shown).spec == kept


def test_the_schema_says_every_limit() -> None:
    said = JobSpec.model_json_schema()["properties"]
    assert said["name"]["maxLength"] == 255
    assert "veryfast" in said["preset"]["enum"]
    (size,) = (each for each in said["size"]["anyOf"] if "prefixItems" in each)
    for side in size["prefixItems"]:
        assert (side["minimum"], side["maximum"], side["multipleOf"]) == (64, 8192, 2)
