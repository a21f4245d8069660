"""`manual_config.yaml` is changed entry by entry, or not at all."""

from __future__ import annotations

import stat
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as run
from hypothesis import strategies as st

from shared.errors import PermanentError
from shared.settings import Settings
from shared.settings.catalogue import catalogue
from shared.settings.editing import set_manual, unset_manual
from shared.settings.origins import look
from shared.settings.places import MANUAL

STREAMS = "performance.max_concurrent_streams"
NOW = datetime(2026, 11, 21, 18, 40, 5, tzinfo=timezone(timedelta(hours=1)))
BY_HAND = f"""\
# The machine under the desk.

{STREAMS}:   # it has one encoder
  # more stutter
  value: 2   # two
  since: yesterday
# about memory
memory.arena_mib: 512 # enough

# the end
"""


def put(folder: Path, name: str, value: str, reason: str = "") -> str:
    set_manual(folder, name, value, reason, NOW)
    return (folder / MANUAL).read_text()


def test_a_value_is_entered_with_time_and_reason_and_counts(folder: Path) -> None:
    text = put(folder, STREAMS, "3", "the third\nstream: # is slow")
    assert yaml.safe_load(text) == {
        STREAMS: {
            "value": 3,
            "since": "2026-11-21T18:40:05+01:00",
            "reason": "the third stream: # is slow",
        }
    }
    assert Settings.load().max_concurrent_streams == 3
    assert stat.S_IMODE((folder / MANUAL).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [MANUAL]


def test_comments_order_and_other_entries_stay(folder: Path) -> None:
    (folder / MANUAL).write_text(BY_HAND)
    text = put(folder, STREAMS, "3")
    start, end = BY_HAND.index(STREAMS), BY_HAND.index("# about memory")
    entry = f"{STREAMS}:\n  value: 3\n  since: '2026-11-21T18:40:05+01:00'\n"
    assert text == BY_HAND[:start] + entry + BY_HAND[end:]
    put(folder, "memory.decoded_slots", "4")
    assert unset_manual(folder, "memory.decoded_slots") == "memory.decoded_slots"
    assert (folder / MANUAL).read_text() == text
    assert unset_manual(folder, "DUALFACE_ARENA_MIB") == "memory.arena_mib"
    assert (folder / MANUAL).read_text() == text.replace("memory.arena_mib: 512 # enough\n", "")


def test_an_entry_that_is_there_twice_is_there_once_afterwards(folder: Path) -> None:
    (folder / MANUAL).write_text(f"{STREAMS}: 2\ngpu.device: a\n{STREAMS}: 4")
    assert list(yaml.safe_load(put(folder, STREAMS, "5"))) == [STREAMS, "gpu.device"]
    assert Settings.load().max_concurrent_streams == 5


def test_a_wrong_entry_can_be_taken_out_also_one_that_nobody_knows(folder: Path) -> None:
    (folder / MANUAL).write_text(f"old.name: [1,\n 2]\n{STREAMS}: x\n")
    assert unset_manual(folder, "old.name") == "old.name"
    assert unset_manual(folder, STREAMS) == STREAMS
    assert (folder / MANUAL).read_text() == ""
    assert unset_manual(folder, STREAMS) is None
    with pytest.raises(PermanentError, match=r"There is no setting old\.name"):
        unset_manual(folder, "old.name")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("performance.max_concurent_streams", "3", f"no setting .*did you mean {STREAMS}"),
        ("max_concurrent_streams", "3", f"no setting .*did you mean {STREAMS}"),
        ("xyz", "3", r"There is no setting xyz\.$"),
        (STREAMS, "three", "valid integer"),
        (STREAMS, "0", "greater than or equal to 1"),
        ("performance.encode_preset_gpu", "p8", "p1.*p7"),
        ("gpu.devices", "some", "'auto' or 'none'"),
        ("sources.hosts", "a.example", r"it has to be JSON, for example \["),
        ("sources.networks", '["10.0.0.1/8"]', "network"),
        ("monitoring.traces_endpoint", "x", "http"),
        ("monitoring.log_level", "loud", "'DEBUG', 'INFO'"),
        ("recovery.stall_s", "-5", "greater than or equal to 0"),
        ("recovery.stall_s", "inf", "finite"),
        ("storage.redis_url", "nonsense", "redis://:PASSWORD@HOST"),
        ("storage.store", "ftp://host", "s3://BUCKET/PREFIX"),
        ("api.key", "df_1", "is a secret.*set DUALFACE_API_KEY"),
        ("storage.state_dir", "videos", "has to be whole"),
        ("storage.model_folders", '["~/models"]', "has to be whole"),
        ("storage.config_dir", "/x", "set DUALFACE_CONFIG_DIR"),
    ],
)
def test_a_wrong_name_or_value_is_one_sentence_and_leaves_the_file_alone(
    folder: Path, name: str, value: str, words: str
) -> None:
    (folder / MANUAL).write_text(BY_HAND)
    with pytest.raises(PermanentError, match=words) as raised:
        put(folder, name, value)
    assert "\n" not in raised.value.message
    assert (folder / MANUAL).read_text() == BY_HAND


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2\n", "line 2.*Mend it first"),
        (f"{{{STREAMS}: 1}}\n", "lines of NAME: VALUE"),
        ("- 1\n", "lines of NAME: VALUE"),
        (f"{STREAMS}: 1\n...\n", "by hand"),
    ],
)
def test_a_file_that_can_not_be_edited_is_left_alone(folder: Path, text: str, words: str) -> None:
    (folder / MANUAL).write_text(text)
    with pytest.raises(PermanentError, match=words):
        put(folder, "memory.arena_mib", "64")
    assert (folder / MANUAL).read_text() == text


def test_a_link_stays_one_and_a_mode_that_somebody_chose_too(folder: Path) -> None:
    kept = folder.parent / "kept.yaml"
    kept.write_text("")
    kept.chmod(0o644)
    (folder / MANUAL).symlink_to(kept)
    put(folder, STREAMS, "3")
    assert (folder / MANUAL).is_symlink()
    assert STREAMS in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o644


def test_a_folder_that_can_not_be_written_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(PermanentError, match="file/below can't be written"):
        put(folder / "file" / "below", STREAMS, "3")


def test_writers_at_the_same_time_lose_nothing(folder: Path) -> None:
    names = [name for name, each in catalogue().items() if isinstance(each.default, int)][:12]
    threads = [threading.Thread(target=put, args=(folder, name, "1")) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(yaml.safe_load((folder / MANUAL).read_text())) == set(names)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("gpu.devices", "none", "none"),
        ("gpu.devices", '["GPU-1", "MIG-2"]', ("GPU-1", "MIG-2")),
        ("gpu.device", "123", "123"),
        ("storage.keep_sources", "on", True),
        ("storage.state_dir", "/a b/c: #d", Path("/a b/c: #d")),
        ("storage.store", "", ""),
        ("sources.hosts", '["*.example.com"]', ("*.example.com",)),
        ("picture.swap_margin", "0.25", 0.25),
        ("gpu.host", "null", "null"),
        ("monitoring.log_level", "debug", "DEBUG"),
        ("recovery.drills", "[]", ()),
    ],
)
def test_a_value_means_in_the_file_what_it_means_in_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    put(folder, name, text)
    assert look()[name].origin.value == value
    unset_manual(folder, name)
    monkeypatch.setenv(catalogue()[name].variable, text)
    assert look()[name].origin.value == value


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
@run(
    derandomize=True,
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_text_comes_back_as_it_was_entered(folder: Path, text: str) -> None:
    set_manual(folder, "gpu.host", text, text, NOW)
    assert Settings.load().host == text
