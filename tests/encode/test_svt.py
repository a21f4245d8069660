"""SVT-AV1 within a process that has other things to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from services.encode.engines.base import Frame
from services.encode.engines.pyav import PyAvEncoder
from shared.jobs import Codec
from tests.encode.pictures import LAYOUT, encode, numbered, output
from tests.waiting import wait_until

PLAN = output((1, 25), Codec.AV1)


def threads() -> dict[int, tuple[int, int]]:
    """Scheduling of this process's threads: policy, priority."""
    found = {}
    for path in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it ends meanwhile
            task = int(path.name)
            found[task] = os.sched_getscheduler(task), os.sched_getparam(task).sched_priority
    return found


def test_its_threads_are_no_more_urgent_than_others_and_end_with_the_chunk(tmp_path: Path) -> None:
    before, nice = threads(), os.getpriority(os.PRIO_PROCESS, 0)
    seen: list[dict[int, tuple[int, int]]] = []

    def frames() -> Iterator[Frame]:
        slot = numbered(3)
        for index in range(3):
            seen.append(threads())
            yield index, LAYOUT.planes(slot, index)

    PyAvEncoder().encode(frames(), LAYOUT, PLAN, tmp_path / "c.nut")
    own = before[threading.get_native_id()]
    assert all(len(now) > len(before) for now in seen)
    assert all(now[task] == own for now in seen for task in now.keys() - before.keys())
    assert all(now[task] == before[task] for now in seen for task in now.keys() & before.keys())
    assert os.getpriority(os.PRIO_PROCESS, 0) == nice
    wait_until(lambda: threads().keys() <= before.keys(), "its threads have ended")


def test_work_that_is_given_up_leaves_no_thread(tmp_path: Path) -> None:
    before = threads().keys()
    for number in (0, 1, 20):
        with pytest.raises(LookupError):
            PyAvEncoder().encode(given_up_after(number), LAYOUT, PLAN, tmp_path / "c.nut")
        wait_until(lambda: threads().keys() <= before, "its threads have ended")
    assert list(tmp_path.iterdir()) == []


def given_up_after(number: int) -> Iterator[Frame]:
    slot = numbered(number + 1)
    for index in range(number):
        yield index, LAYOUT.planes(slot, index)
    raise LookupError(number)


SAYING = """
import contextlib, pathlib, sys
from tests.encode import pictures, test_svt
path = pathlib.Path(sys.argv[1])
pictures.encode([0, 1], test_svt.PLAN, path)
with contextlib.suppress(LookupError):
    test_svt.PyAvEncoder().encode(
        test_svt.given_up_after(1), pictures.LAYOUT, test_svt.PLAN, path
    )
"""


def test_it_says_nothing_on_its_own(tmp_path: Path) -> None:
    """In a process of its own: what it says is decided once, when somebody first opens it."""
    environ = {name: value for name, value in os.environ.items() if name != "SVT_LOG"}
    command = [sys.executable, "-c", SAYING, str(tmp_path / "c.nut")]
    done = subprocess.run(command, capture_output=True, env=environ, check=True, timeout=120)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_neither_threads_nor_vector_code_nor_presets_of_others_change_a_byte(
    tmp_path: Path,
) -> None:
    made = []
    for name, encoder in (
        ("a", PyAvEncoder()),
        ("b", PyAvEncoder(4)),
        ("c", PyAvEncoder(vector_code=False)),
        ("d", PyAvEncoder()),
    ):
        slot = numbered(20)
        frames = ((index, LAYOUT.planes(slot, index)) for index in range(20))
        encoder.encode(frames, LAYOUT, PLAN, tmp_path / name)
        made.append((tmp_path / name).read_bytes())
        other = PLAN.model_copy(update={"preset": "medium", "crf": 10})
        encode([0, 7], other, tmp_path / "other.nut")
    assert len(set(made)) == 1
    assert PyAvEncoder(vector_code=False).name_for(Codec.AV1) == "pyav-libsvtav1-plain"


@pytest.mark.parametrize("frame_rate", [(1000, 1), (1, 3600), (2**31 - 1, 100_000)])
def test_any_frame_rate_is_taken(tmp_path: Path, frame_rate: tuple[int, int]) -> None:
    plan = PLAN.model_copy(update={"frame_rate": frame_rate})
    assert encode([0, 1, 5], plan, tmp_path / "c.nut").frames == 3
