"""A short attack by the chaos program; `make chaos` does the same for as long as one likes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chaos.faults import FAULTS, power_cut
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
