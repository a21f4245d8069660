"""`dualface config`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text
from typer.testing import CliRunner

from client.config import config_app
from client.configuring import names_like
from client.doctor import quick
from shared.errors import PermanentError
from shared.settings import Settings
from shared.settings.catalogue import HIDDEN, catalogue
from shared.settings.hardware import Derived
from shared.settings.places import MANUAL
from shared.settings.probing import host_facts, write_detected

STREAMS = "performance.max_concurrent_streams"
TERMINAL = {"FORCE_COLOR": "1", "COLUMNS": "100"}


def config(*words: str, **variables: str) -> tuple[list[str], str]:
    """Lines of standard output, and standard error."""
    done = CliRunner().invoke(config_app, words, env=variables, catch_exceptions=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Text.from_ansi(done.stdout).plain.splitlines(), done.stderr


def test_every_setting_is_shown_with_value_and_origin(folder: Path) -> None:
    (folder / MANUAL).write_text(f"{STREAMS}: 3\n")
    lines, _ = config()
    shown = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    assert shown.keys() == catalogue().keys()
    assert shown[STREAMS] == ["3", f"{MANUAL} (line 1)"]
    assert shown["gpu.memory_share"] == ["0.875", "default"]
    assert shown["storage.config_dir"] == [str(folder), "environment DUALFACE_CONFIG_DIR"]


def test_a_terminal_shows_sections_and_whole_names() -> None:
    lines, _ = config(**TERMINAL)
    words = [line.split() for line in lines]
    assert words[0] == ["setting", "value", "origin"]
    assert ["gpu"] in words
    assert max(map(len, lines)) <= 100
    assert catalogue().keys() <= {line[0] for line in words if line}


def test_the_list_can_be_of_a_section_or_of_what_is_no_default() -> None:
    lines, _ = config("--section", "gpu")
    assert {line.partition(".")[0] for line in lines} == {"gpu"}
    lines, _ = config("--changed", "--section", "gpu", DUALFACE_GPU_DEVICES='["GPU-1"]')
    assert lines == ['gpu.devices\t["GPU-1"]\tenvironment DUALFACE_GPU_DEVICES']
    assert config("--changed", "--section", "gpu") == ([], "All of it is at its default.\n")
    with pytest.raises(PermanentError, match="'gpus' is none of performance, gpu"):
        config("--section", "gpus")


def test_programs_get_json() -> None:
    (line,), _ = config("--json", "--changed", DUALFACE_LEASE_S="7.5")
    found = {each["name"]: each for each in json.loads(line)}
    lease = found["recovery.lease_s"]
    assert (lease["value"], lease["origin"]) == (7.5, "environment")
    assert [layer["value"] for layer in lease["layers"]] == [7.5, 20.0]
    (line,), _ = config("get", STREAMS, "--json")
    assert json.loads(line)["variable"] == "DUALFACE_MAX_CONCURRENT_STREAMS"


@pytest.mark.parametrize("show", [("--json",), (), ("get", "storage.redis_url")])
def test_secrets_are_never_shown(show: tuple[str, ...]) -> None:
    secrets = {each.variable: f"hush-{each.field}" for each in catalogue().values() if each.secret}
    assert len(secrets) >= 5
    url = "redis://:hush-h@sh@redis.example/3?password=hush"
    for more in ({}, TERMINAL):
        lines, errors = config(*show, DUALFACE_REDIS_URL=url, **secrets, **more)
        said = "".join(line.strip() for line in lines) + errors
        assert "hush" not in said
        assert HIDDEN in said
        assert more or "redis.example" in said


def test_one_is_shown_bare_to_a_pipe_and_explained_to_people(folder: Path) -> None:
    (folder / MANUAL).write_text(f"{STREAMS}: 3\n")
    assert config("get", STREAMS)[0] == ["3"]
    assert config("get", "DUALFACE_STORE")[0] == [""]
    lines, _ = config("get", STREAMS, DUALFACE_DECODE_WORKERS="2", **TERMINAL)
    said = "\n".join(lines)
    for part in (
        "2  environment DUALFACE_DECODE_WORKERS",
        f"3  {MANUAL}",
        "1  default",
        "Segments",
    ):
        assert part in said


def test_what_is_set_says_what_counts_now(folder: Path) -> None:
    lines, errors = config("set", STREAMS, "3", "--reason", "the third is slow")
    (line,) = lines
    assert line.startswith(f"{STREAMS}: 3  {MANUAL} (since 20")
    assert line.endswith(": the third is slow)")
    assert "A stack that is up" in errors
    lines, errors = config("set", STREAMS, "4", DUALFACE_MAX_CONCURRENT_STREAMS="2")
    assert lines == [f"{STREAMS}: 2  environment DUALFACE_MAX_CONCURRENT_STREAMS"]
    assert "The environment is stronger than manual_config.yaml" in errors
    assert Settings.load().max_concurrent_streams == 4
    assert config("unset", STREAMS)[0] == [f"{STREAMS}: 1  default"]
    assert "is not in" in config("unset", STREAMS)[1]
    assert folder.is_dir()


def test_a_wrong_value_is_one_line_and_exit_code_2(folder: Path) -> None:
    command = str(Path(sys.executable).with_name("dualface"))
    done = subprocess.run(
        [command, "config", "set", STREAMS, "three"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dualface: {STREAMS} can't be 'three'")
    assert list(folder.iterdir()) == []


def test_a_shell_completes_names() -> None:
    assert [name for name, _ in names_like("gpu.memory_")] == ["gpu.memory_share", "gpu.memory_mib"]


@pytest.mark.parametrize(
    ("wanted", "lacking", "aside"),
    [
        ("auto", "no driver", True),
        ("none", "", True),
        ("auto", "", False),
        ('["GPU-1"]', "x", False),
    ],
)
def test_what_was_probed_is_shown_as_set_aside_where_no_gpu_is_used(
    wanted: str, lacking: str, aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_detected(host_facts(4), {STREAMS: Derived(2, "it has room")})
    monkeypatch.setattr(quick, "why_no_gpu", lambda: lacking)
    assert config("get", STREAMS, DUALFACE_GPU_DEVICES=wanted)[0] == ["1" if aside else "2"]
    (line,), _ = config("get", STREAMS, "--json", DUALFACE_GPU_DEVICES=wanted)
    texts = {layer["origin"]: layer["text"] for layer in json.loads(line)["layers"]}
    assert texts["detected"].endswith("set aside: no GPU is used") is aside
    assert texts["default"] == "default"


def test_a_value_may_begin_with_a_minus_and_is_judged_by_its_setting() -> None:
    with pytest.raises(PermanentError, match="greater than or equal to 0"):
        config("set", "recovery.stall_s", "-5")


def test_what_is_taken_out_is_said_also_of_a_name_that_nobody_knows(folder: Path) -> None:
    (folder / MANUAL).write_text("old.name: 1\n")
    assert "old.name is out of" in config("unset", "old.name")[1]
