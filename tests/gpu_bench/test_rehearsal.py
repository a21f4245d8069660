"""The benchmark of GPUs, rehearsed over the doubles: that it runs, not what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import NAMES
from benchmarks.gpu.results import REHEARSAL, Results
from tests.conftest import PROJECT
from tests.doubles import device_env
from tests.doubles.cuda_on_cpu import missing
from tests.system.runs import SHM, have_model

pytestmark = pytest.mark.timeout(600)

UUID = "0" * 32
"""Of the first GPU of the NVML double."""


@pytest.fixture
def shm() -> Iterator[Path]:
    """A folder of shared memory for the arenas of one run."""
    folder = SHM / f"dualface-test-{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def bench(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    own = {name: "" for name in os.environ if name.startswith("DUALFACE_")}
    env = device_env(DOUBLE_UUID=UUID, DOUBLE_HARDWARE="rtx4090") | more
    for name in own.keys() - more.keys():
        del env[name]
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=PROJECT,
        env=env,
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )


def test_a_rehearsal_measures_every_part_and_says_that_its_figures_mean_nothing(
    tmp_path: Path, shm: Path
) -> None:
    if reason := missing():
        pytest.skip(reason)
    have_model()
    out = tmp_path / "out"
    ended = bench(
        "--quick",
        "--out",
        str(out),
        DUALFACE_SHM_DIR=str(shm),
        DUALFACE_ARENA_MIB="192",
        DUALFACE_MAX_CONCURRENT_STREAMS="1",
        DOUBLE_NVDEC_ENGINES="2",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = Results.model_validate_json((out / "results.json").read_text())
    assert {part.name: part.why for part in results.parts} == dict.fromkeys(NAMES, "")
    for part in results.parts:
        assert part.state == "measured"
        assert part.figures, part.name
        assert all(each.low <= each.median <= each.high for each in part.figures), part.name
        assert all(each.met is None for each in part.figures), part.name
    assert results.rehearsal
    assert results.notice == REHEARSAL
    text = (out / "results.md").read_text()
    # At the top, and over each table: a table may be copied alone.
    assert text.count(REHEARSAL) == 1 + len(NAMES)
    assert REHEARSAL in ended.stdout
    between = {each.name: each.median for part in results.parts for each in part.figures}
    assert between["decode, device to host"] == between["compose, device to host"] == 0
    assert between["infer, device to host"] > 0, "copies are seen at all"
    rated = {each.name: each.means for each in results.parts[0].figures if "rating" in each.name}
    ampere = {1: 748, 2: 2 * 748}
    assert {count: rated[f"h264 nvdec x{count} of the rating"] for count in ampere} == {
        count: f"{fps} frames/s by the rating" for count, fps in ampere.items()
    }, "each decoder uses an engine of its own, as far as there are any"
    assert list(shm.iterdir()) == []


def test_without_a_gpu_nothing_is_measured_and_nothing_written(tmp_path: Path) -> None:
    ended = bench("--out", str(tmp_path / "out"), DUALFACE_GPU_DEVICES="none")
    assert ended.returncode == 2
    assert "There is no GPU to measure" in ended.stderr
    assert not (tmp_path / "out").exists()
