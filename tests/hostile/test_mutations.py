"""Damaged and doctored files end as a success or as a failure with a code.

`python -m benchmarks.mutations` does the same by the thousand.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.mutations import Clip, Limits, Outcome, mutation, run, small_clips
from shared.errors import ErrorCode

SEED, COUNT = 7, 36
LIMITS = Limits(seconds=90.0, memory_mib=2048)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Clip]:
    return small_clips(tmp_path_factory.mktemp("clips"))


def test_every_mutation_ends_well_or_with_a_code(clips: Sequence[Clip]) -> None:
    outcomes = list(run(clips, SEED, range(COUNT), LIMITS))
    assert sorted(outcome.number for outcome in outcomes) == list(range(COUNT))
    assert [outcome for outcome in outcomes if outcome.bad] == []
    codes = Counter(outcome.code for outcome in outcomes)
    assert set(codes) <= {"ok", "losses", *ErrorCode}
    assert codes["losses"] > 5
    assert max(outcome.peak_mib for outcome in outcomes) < 256


def test_a_mutation_is_the_same_every_time(clips: Sequence[Clip]) -> None:
    assert [mutation(clips, 3, k) for k in range(9)] == [mutation(clips, 3, k) for k in range(9)]
    assert len({mutation(clips, 3, k)[1].data for k in range(9)}) > 6


def _only(number: int, clip: Clip, limits: Limits = LIMITS) -> Outcome:
    (outcome,) = run([clip], SEED, [number], limits)
    return outcome


def test_a_crash_costs_one_child_and_is_told(
    clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that native code kills is replaced, and the others' outcomes come."""
    monkeypatch.setattr("benchmarks.mutations.examine", _dies)
    outcomes = sorted(run(clips, SEED, range(6), LIMITS), key=lambda each: each.number)
    assert {outcome.code for outcome in outcomes} == {"crash SIGSEGV"}
    assert all(outcome.bad for outcome in outcomes)


def _dies(path: Path, folder: Path) -> str:
    assert path.exists()
    assert folder.is_dir()
    faulthandler.disable()  # its words would stand among those of the tests
    os.kill(os.getpid(), signal.SIGSEGV)
    return "ok"


def test_a_hang_is_ended_and_told(clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.mutations.examine", _never_ends)
    outcome = _only(0, clips[0], Limits(seconds=0.5, memory_mib=2048, children=1))
    assert outcome.code == "time-out"


def _never_ends(path: Path, folder: Path) -> str:
    while path.exists() or folder.exists():
        pass
    return "ok"


def test_what_a_file_leaves_behind_is_told(
    clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.mutations.examine", _litters)
    assert _only(0, clips[0]).code == "left something open or behind"


def _litters(path: Path, folder: Path) -> str:
    (folder / f"{path.name}.part").touch()
    return "ok"
