"""The compiler of kernels for GPUs that are not here: what it accepts, and what it says without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda import nvrtc


@pytest.fixture
def compiler() -> nvrtc.Compiler:
    found = nvrtc.installed()
    if found is None:
        pytest.skip("NVRTC's package is not installed")
    return found


@pytest.mark.gpu
def test_every_kernel_compiles_for_every_generation_of_gpus(compiler: nvrtc.Compiler) -> None:
    files = nvrtc.kernels()
    assert len(files) >= 5
    problems = [compiler.problem(file, each) for file in files for each in nvrtc.GENERATIONS]
    assert not any(problems), problems


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("line", "said"),
    [("out[0] = other;", "undefined"), ("int unused;", "never referenced")],
)
def test_what_does_not_compile_or_is_warned_of_is_told(
    compiler: nvrtc.Compiler, line: str, said: str, tmp_path: Path
) -> None:
    source = tmp_path / "some.cu"
    source.write_text(f'extern "C" __global__ void some(int* out) {{ {line} }}')
    assert said in compiler.problem(source, nvrtc.GENERATIONS[0])


def test_where_there_is_no_nvrtc_nothing_is_compiled_and_that_is_said() -> None:
    told = subprocess.run(
        [sys.executable, "-ES", "-m", "tests.cuda.nvrtc"],  # without packages
        cwd=nvrtc.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout.count("\n")) == (0, 1)
    assert "not compiled" in told.stdout
