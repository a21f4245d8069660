"""Whatever looks at a driver may crash or hang: that is a finding, and the others are made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.doctor.children import Look, found_by
from shared.findings import Finding, State
from tests.conftest import PROJECT
from tests.doctor.doubles import path_with
from tests.waiting import wait_until

LOOKING = "tests.doctor.programs.looking"


def found(*steps: str, step_limit_s: float = 30.0, module: str = LOOKING) -> list[Finding]:
    environment = {"PYTHONPATH": path_with()}
    return found_by(Look("gpu", module, environment, steps, "GPU-7", step_limit_s))


def told(findings: list[Finding]) -> list[tuple[str, State]]:
    return [(each.check, each.state) for each in findings]


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:  # nobody of this number, or no longer
        return False


def test_a_step_that_hangs_is_cut_off_and_those_behind_it_are_done(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    findings = found("--pid", str(note), "well-1", "hangs-2", "well-3", step_limit_s=4.0)
    assert told(findings) == [
        ("well-1", State.OK),
        ("hangs-2", State.PROBLEM),
        ("well-3", State.OK),
    ]
    assert findings[1].text == "did not end within 4 s"
    assert findings[1].fix == "mend hangs-2"
    assert {each.device for each in findings} == {"GPU-7"}
    assert not is_alive(int(note.read_text()))


def test_a_step_that_crashes_its_process_is_named_with_what_it_said_last() -> None:
    findings = found("well-1", "crashes-2", "well-3", "exits-4", "well-5")
    assert told(findings) == [
        ("well-1", State.OK),
        ("crashes-2", State.PROBLEM),
        ("well-3", State.OK),
        ("exits-4", State.PROBLEM),
        ("well-5", State.OK),
    ]
    assert findings[1].text == "crashed its process (SIGSEGV): something of a library"
    assert findings[1].fix == "mend crashes-2"
    assert findings[3].text == "ended its process with code 3"


@pytest.mark.parametrize(
    ("step", "state"),
    [
        ("lacks", State.NOT_HERE),
        ("breaks", State.PROBLEM),
        ("loses", State.PROBLEM),
        ("raises", State.PROBLEM),
    ],
)
def test_what_a_step_raises_is_a_finding_with_the_steps_fix(step: str, state: State) -> None:
    findings = found(step, "well")
    assert told(findings) == [(step, state), ("well", State.OK)]
    assert findings[0].fix == f"mend {step}"
    assert findings[0].text


def test_what_libraries_print_is_no_finding() -> None:
    assert told(found("talks", "well")) == [("talks", State.OK), ("well", State.OK)]


def test_a_program_that_does_not_start_is_a_finding() -> None:
    (finding,) = found(module="tests.doctor.programs.nothing")
    assert (finding.check, finding.state) == ("gpu", State.PROBLEM)
    assert "No module named" in finding.text


IMPORTING = """
import os, sys, time
from pathlib import Path
Path(sys.argv[2]).write_text(str(os.getpid()))
time.sleep(3600)
"""


@pytest.mark.parametrize("module", [LOOKING, "importing"])
def test_no_look_outlives_a_doctor_that_is_killed(tmp_path: Path, module: str) -> None:
    """Neither one that hangs in the middle of a step, nor in its imports."""
    (tmp_path / "importing.py").write_text(IMPORTING)
    note = tmp_path / "pid"
    call = f"found_by(Look('gpu', {module!r}, {{}}, ('--pid', {str(note)!r}, 'hangs')))"
    doctor = subprocess.Popen(
        [sys.executable, "-c", f"from client.doctor.children import *\n{call}"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": path_with(tmp_path)},
    )
    try:
        wait_until(lambda: note.is_file() and note.read_text(), "it looks", 60.0)
    finally:
        doctor.send_signal(signal.SIGKILL)
        doctor.wait()
    pid = int(note.read_text())
    wait_until(lambda: not is_alive(pid), "what it started has ended", 60.0)
