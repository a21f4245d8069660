"""The command whole, its report and its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from client.doctor import command
from client.doctor.command import Look, at_once, doctor_command, findings_of
from client.doctor.report import Report, report_of, show
from shared.errors import ErrorCode, PermanentError
from shared.findings import Finding, State, not_here, ok, problem, warning
from shared.settings import Settings
from shared.settings.places import MANUAL
from tests.conftest import PROJECT

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state", cache_dir=tmp_path / "cache", api_port=0, flower_port=0
    )


def doctor(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    own = {
        "DUALFACE_STATE_DIR": str(folder / "state"),
        "DUALFACE_CACHE_DIR": str(folder / "cache"),
        "DUALFACE_CONFIG_DIR": str(folder / "config"),
        "DUALFACE_API_PORT": "0",
        "DUALFACE_FLOWER_PORT": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", "client.cli", "doctor", *options],
        cwd=PROJECT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_whole_doctor_writes_a_report_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    ended = doctor(tmp_path, "--json", "--report", str(file))
    report = Report.model_validate_json(ended.stdout)
    assert json.loads(file.read_text()) == json.loads(ended.stdout)
    assert report.schema_version == 1
    checks = [finding.check for finding in report.findings]
    order = ["packages", "memory", "ffmpeg", "encode.pyav", "driver", "redis", "store", "models"]
    assert [check for check in checks if check in order] == order
    problems = [each for each in report.findings if each.state is State.PROBLEM]
    assert (ended.returncode, problems) == (0, []), ended.stdout
    assert ended.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]


def test_problems_end_it_with_1_and_a_table_says_what_to_do(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = settings.model_copy(update={"shm_dir": Path("/nowhere")})
    assert doctor_command(broken, quick=True, as_json=False, report_file=None) == 1
    table = capsys.readouterr().out
    assert "shared memory" in table
    assert "->" in table
    assert "redis" not in table, "quick: nobody is asked"


def test_a_report_that_can_not_be_written_is_bad_usage(settings: Settings) -> None:
    file = Path("/nowhere/report.json")
    with pytest.raises(PermanentError, match="can't be written"):
        doctor_command(settings, quick=True, as_json=True, report_file=file)


def test_the_worst_finding_is_the_reports_and_what_is_not_here_does_not_count() -> None:
    fine, lacking = ok("a", "well"), not_here("b", "none", "get one")
    slow, broken = warning("c", "slow", "see to it"), problem("d", "broken", "mend it")
    states = [
        report_of(findings, None, 1.0, quick=False).state
        for findings in ([fine, lacking], [fine, slow], [slow, broken, fine])
    ]
    assert states == [State.OK, State.WARNING, State.PROBLEM]


def test_what_is_not_ok_has_a_fix() -> None:
    for state in State:
        if state is State.OK:
            continue
        with pytest.raises(ValidationError, match="nobody knows what to do"):
            Finding(check="a", state=state, text="bad")


def test_the_table_tells_devices_apart_and_shows_every_fix() -> None:
    findings = [
        ok("gpu", "the first").model_copy(update={"device": "GPU-1"}),
        problem("gpu", "the [second]", "mend it").model_copy(update={"device": "GPU-2"}),
    ]
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(report_of(findings, None, 1.0, quick=False), console)
    text = console.export_text()
    console.file.close()
    assert "gpu #1" in text
    assert "the [second]" in text
    assert "-> mend it" in text
    assert "1 ok, 0 warning, 1 problem, 0 not here" in text


def test_the_reports_schema_is_typed_and_versioned() -> None:
    schema = Report.model_json_schema()
    assert schema["properties"]["schema_version"]["const"] == 1
    assert set(schema["required"]) >= {"schema_version", "state", "findings"} - {"schema_version"}


def quickly(settings: Settings) -> dict[str, list[Finding]]:
    """What the quick part finds of settings and GPUs, by check."""
    looks = [look for look in at_once(settings) if look.name in ("settings", "gpu choice")]
    found = [each for look in looks for each in findings_of(look)]
    return {
        check: [each for each in found if each.check == check] for check in {e.check for e in found}
    }


def test_each_broken_line_of_a_settings_file_is_a_warning(
    settings: Settings, tmp_path: Path
) -> None:
    mine = settings.model_copy(update={"config_dir": tmp_path})
    assert [each.state for each in quickly(mine)["settings"]] == [State.OK]
    (tmp_path / MANUAL).write_text("recovery.stal_s: 5\nrecovery.stall_s: banana\n")
    first, second = quickly(mine)["settings"]
    assert (first.state, second.state) == (State.WARNING, State.WARNING)
    assert "line 1: there is no setting recovery.stal_s; did you mean" in first.text
    assert "line 2: recovery.stall_s: " in second.text


def test_the_quick_part_refuses_gpus_that_a_run_would_refuse(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = settings.model_copy(update={"gpu_devices": ("GPU-1",)})
    monkeypatch.setattr(command, "why_no_gpu", lambda: "no NVIDIA driver is loaded")
    (finding,) = quickly(named)["gpu choice"]
    assert finding.state is State.PROBLEM
    assert "gpu.devices (DUALFACE_GPU_DEVICES) names GPU-1: no NVIDIA driver" in finding.text
    assert "gpu choice" not in quickly(settings), "none was named"
    monkeypatch.setattr(command, "why_no_gpu", lambda: "")
    assert [each.state for each in quickly(named)["gpu choice"]] == [State.OK]


def test_only_what_hangs_is_said_to_wait_for_something() -> None:
    def refuses() -> list[Finding]:
        raise PermanentError(ErrorCode.BAD_OPTION, "DUALFACE_X is wrong.")

    (finding,) = findings_of(Look("x", refuses))
    assert (finding.text, finding.fix) == ("DUALFACE_X is wrong.", command.NAMED)
