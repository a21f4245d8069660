"""A short attack by the chaos program; `make chaos` does the same for as long as one likes."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from chaos.__main__ import Jobs, Story
from chaos.faults import FAULTS, power_cut
from shared.jobs import JobState
from tests.system.runs import have_model


@pytest.mark.timeout(400)
def test_jobs_survive_faults_at_random_and_nothing_is_left() -> None:
    have_model()
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--seed", "5", "--minutes", "0.2", "--every", "2"],
        capture_output=True,
        text=True,
        timeout=380,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout


def test_every_kind_of_fault_may_come() -> None:
    assert all(weight > 0 for weight in FAULTS.values())
    assert power_cut in FAULTS


@dataclass
class Deaf:
    """A cluster, its ledger too, that does what it is told and whose answer is lost."""

    ended: JobState
    state: JobState = JobState.RUNNING
    ledger: Deaf = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = self

    def cancel(self, _: str) -> bool:
        self.state = self.ended
        raise ConnectionError

    def view(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(state=self.state, message="")


@pytest.mark.parametrize("ended", [JobState.CANCELLED, JobState.FAILED])
def test_a_job_whose_cancelling_was_not_answered_may_be_cancelled_and_nothing_else(
    ended: JobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, story = random.Random(1), Story()
    monkeypatch.setattr(chance, "random", lambda: 0.0)
    jobs = Jobs(Deaf(ended), chance, story, {}, 1, live={"j": Path("video")})  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        jobs.step(more=True)
    jobs.step(more=False)
    assert jobs.live == {}
    assert (story.problems == []) == (ended is JobState.CANCELLED)
