"""Which layer counts, and what is said of those that are broken."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import PermanentError
from shared.settings import Settings, SourceLimits
from shared.settings.origins import Origin, look
from shared.settings.places import DETECTED, MANUAL
from tests.conftest import PROJECT
from tests.logged import ours

STREAMS = "performance.max_concurrent_streams"


def manual(folder: Path, text: str) -> None:
    (folder / MANUAL).write_text(text)


def detected(folder: Path, streams: object) -> None:
    (folder / DETECTED).write_text(
        f"probed: '2026-11-21T18:40:00'\nvalues:\n  {STREAMS}:\n    value: {streams}\n"
        "    reason: it has two encoders\n"
    )


def origin(name: str = STREAMS) -> Origin:
    return look()[name].origin


def test_a_person_is_stronger_than_a_probe_and_a_probe_stronger_than_a_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (Settings().max_concurrent_streams, origin().text) == (1, "default")
    detected(folder, 4)
    assert Settings().max_concurrent_streams == 4
    assert origin().text == f"{DETECTED} (probed 2026-11-21 18:40: it has two encoders)"
    manual(folder, f"{STREAMS}: {{value: 3, since: 2026-11-21T18:50:00, reason: it stutters}}\n")
    assert Settings().max_concurrent_streams == 3
    assert origin().text == f"{MANUAL} (since 2026-11-21 18:50: it stutters)"
    monkeypatch.setenv("DUALFACE_MAX_CONCURRENT_STREAMS", "2")
    assert Settings().max_concurrent_streams == 2
    assert origin().text == "environment DUALFACE_MAX_CONCURRENT_STREAMS"
    assert [each.value for each in look()[STREAMS].origins] == [2, 3, 4, 1]
    assert Settings(max_concurrent_streams=7).max_concurrent_streams == 7


def test_the_old_name_counts_as_much_as_its_layer_and_less_than_the_new_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manual(folder, f"{STREAMS}: 3\n")
    monkeypatch.setenv("DUALFACE_DECODE_WORKERS", "5")
    assert Settings.load().max_concurrent_streams == 5
    assert origin().text == "environment DUALFACE_DECODE_WORKERS"
    monkeypatch.setenv("DUALFACE_MAX_CONCURRENT_STREAMS", "2")
    assert Settings.load().max_concurrent_streams == 2
    monkeypatch.setenv("DUALFACE_DECODE_WORKERS", "many")
    assert Settings.load().max_concurrent_streams == 2
    monkeypatch.delenv("DUALFACE_MAX_CONCURRENT_STREAMS")
    with pytest.raises(PermanentError, match="DUALFACE_DECODE_WORKERS"):
        Settings.load()


def test_limits_of_sources_have_the_same_layers(folder: Path) -> None:
    manual(folder, "sources.max_pixels: 1000\nsources.hosts: [videos.example.com]\n")
    detected(folder, 2)
    assert SourceLimits.load().pixels == 1000
    assert SourceLimits.load().frames == SourceLimits.model_fields["frames"].default
    assert Settings.load().source_hosts == ("videos.example.com",)
    assert origin("sources.max_pixels").text == f"{MANUAL} (line 1)"


def test_only_the_broken_entries_of_a_file_are_passed_over_each_named_with_its_line(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detected(folder, 4)
    manual(
        folder,
        f"# mine\n{STREAMS}: 0\n\nperformance.encode_wrokers: 2\ngpu.memory_share: 0.5\n"
        "api.key: df_secret\nsources.hosts: ['a b']\nperformance:\n  batch_frames: 3\n"
        "storage.config_dir: /elsewhere\nmemory.shm_dir: ~/shm\n"
        "recovery.attempts: 2026-99-99\nrecovery.attempts: 5\n",
    )
    for _ in range(3):
        chosen = Settings.load()
        SourceLimits.load()
    assert (chosen.max_concurrent_streams, chosen.gpu_memory_share, chosen.attempts) == (4, 0.5, 5)
    assert chosen.config_dir == folder
    said = [record.message for record in ours(caplog)]
    assert [line.split(": ")[0].removeprefix(f"{folder / MANUAL}, ") for line in said] == [
        f"line {number}" for number in (2, 4, 6, 7, 8, 10, 11, 12)
    ]
    assert "greater than or equal to 1" in said[0]
    assert "did you mean performance.encode_workers" in said[1]
    assert "DUALFACE_API_KEY" in said[2]
    assert "df_secret" not in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2\n", "line 2: it is no valid YAML"),
        ("just words\n", "line 1: here should be lines of NAME: VALUE"),
        ("a: \x07\n", "no valid YAML"),
        ("[" * 600, "nested too deeply"),
        ("a: !!python/object:os.system {}\n", "line 1: it can't be read"),
        ("&a [*a]: 1\n", "line 1"),
        ("x: 1\n---\ny: 2\n", "line 2: it is no valid YAML"),
    ],
)
def test_a_file_that_is_no_yaml_is_told_of_and_the_next_layer_counts(
    folder: Path, caplog: pytest.LogCaptureFixture, text: str, words: str
) -> None:
    detected(folder, 4)
    manual(folder, text)
    assert Settings.load().max_concurrent_streams == 4
    assert words in caplog.text


def test_a_file_that_was_changed_is_read_again(folder: Path) -> None:
    manual(folder, f"{STREAMS}: 3\n")
    assert Settings.load().max_concurrent_streams == 3
    manual(folder, f"{STREAMS}: 13\n")
    assert Settings.load().max_concurrent_streams == 13
    (folder / MANUAL).unlink()
    assert Settings.load().max_concurrent_streams == 1


def test_an_unreadable_file_is_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / MANUAL).mkdir()
    assert Settings.load().max_concurrent_streams == 1
    assert "can't be read (Is a directory)" in caplog.text


def test_a_process_without_files_imports_nothing_to_read_them(tmp_path: Path) -> None:
    program = (
        "import sys; from shared.settings import Settings, SourceLimits;"
        "Settings.load(); SourceLimits.load();"
        "assert 'yaml' not in sys.modules and 'shared.settings.contents' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(PROJECT), "DUALFACE_STATE_DIR": "s", "DUALFACE_CACHE_DIR": "c"}
    command = [sys.executable, "-c", program]
    subprocess.run(command, env=environment | {"HOME": "/nowhere"}, cwd=tmp_path, check=True)


def test_a_child_has_the_settings_that_it_was_given(folder: Path) -> None:
    manual(folder, f"{STREAMS}: 3\n")
    given = Settings.load()
    (folder / MANUAL).unlink()
    assert pickle.loads(pickle.dumps(given)) == given
    assert given.model_copy(update={"arena": "x"}).max_concurrent_streams == 3


def test_a_process_says_once_what_is_wrong_for_people_or_once_it_logs_as_json(
    folder: Path, tmp_path: Path
) -> None:
    manual(folder, f"{STREAMS}: x\n")
    manual(tmp_path, "gpu.devices: [\n")
    program = (
        "import os, sys; from shared.logs import configure_logs; from shared.settings import *;"
        "Settings(); SourceLimits(); Settings(); configure_logs('INFO');"
        "os.environ['DUALFACE_CONFIG_DIR'] = sys.argv[1]; SourceLimits(); Settings()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith(f"{folder / MANUAL}, line 1: {STREAMS}: ")
    line = json.loads(second)
    assert (line["level"], line["logger"]) == ("warning", "dualface")
    assert line["event"].startswith(f"{tmp_path / MANUAL}, line 2: it is no valid YAML")


def test_a_file_s_value_out_of_bounds_is_named_by_line_and_the_next_layer_counts(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detected(folder, 4)
    manual(folder, f"recovery.stall_s: .inf\n{STREAMS}: 100000\nstorage.store: ftp://x\n")
    settings = Settings.load()
    assert (settings.stall_s, settings.max_concurrent_streams, settings.store) == (120, 4, "")
    for line, name in enumerate(("recovery.stall_s", STREAMS, "storage.store"), start=1):
        assert f"line {line}: {name}: " in caplog.text


def test_a_misspelt_variable_is_told_once_with_what_was_meant_and_no_other_s(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What is told is remembered by the process, so a name that no other test has.
    monkeypatch.setenv("DUALFACE_STALL_SS", "5")
    for known in ("DUALFACE_stall_s", "DUALFACE_DECODE_WORKERS", "DUALFACE_SOURCE_MAX_READ_S"):
        monkeypatch.setenv(known, "5")
    monkeypatch.setenv("DUALFACE_API_PORT_8000_TCP", "tcp://10.0.0.1:8000")  # Kubernetes' own
    Settings.load()
    SourceLimits.load()
    (record,) = caplog.records
    assert (
        "DUALFACE_STALL_SS, which is no setting; did you mean DUALFACE_STALL_S?" in record.message
    )
