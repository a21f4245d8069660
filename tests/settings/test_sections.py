"""Every section's checks hold for the settings that are made of them."""

from __future__ import annotations

from collections import Counter

import pytest

from shared.errors import PermanentError
from shared.settings import Settings, SourceLimits
from shared.settings.catalogue import catalogue
from shared.settings.section import WEEK_S, Section


@pytest.mark.parametrize("made", [Settings, SourceLimits])
def test_no_section_s_validator_is_hidden_by_another_s_of_its_name(made: type[Section]) -> None:
    sections = [each for each in made.__mro__ if issubclass(each, Section) and each is not made]
    own = Counter[str]()
    for section in sections:
        found = section.__pydantic_decorators__
        own.update({*found.field_validators, *found.model_validators} & vars(section).keys())
    found = made.__pydantic_decorators__
    assert own == dict.fromkeys([*found.field_validators, *found.model_validators], 1)


@pytest.mark.parametrize("name", ["WEBHOOK_HOSTS", "SOURCE_HOSTS"])
@pytest.mark.parametrize("entry", ["http://*:*", "hooks.example.com/path", "ftp://example.com"])
def test_a_list_of_hosts_that_can_not_be_read_keeps_a_process_from_starting(
    name: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DUALFACE_{name}", f'["{entry}"]')
    with pytest.raises(PermanentError, match=f"DUALFACE_{name}"):
        Settings.load()


def test_no_number_is_infinite_and_nothing_waits_longer_than_a_week() -> None:
    # A video's length is no wait.
    waits = {
        name: each
        for name, each in catalogue().items()
        if name.endswith("_s") and each.info.annotation is float and "duration" not in name
    }
    assert len(waits) >= 14
    for each in catalogue().values():
        for wrong in ("inf", "nan") if each.info.annotation is float else ():
            with pytest.raises(ValueError, match="finite"):
                each.check(wrong)
    for name, each in waits.items():
        assert each.check(WEEK_S) == WEEK_S, name
        with pytest.raises(ValueError, match="less than or equal"):
            each.check(1e11)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STALL_S", "inf"),
        ("LEASE_S", "1e400"),
        ("SOURCE_MAX_READ_S", "nan"),
        ("MAX_CONCURRENT_STREAMS", "100000"),
        ("LOG_LEVEL", "LOUD"),
        ("STORE", "s3://"),
        ("STORE", "/folder"),
        ("STORE", "s3://bucket/../x"),
        ("REDIS_URL", "nonsense"),
        ("REDIS_URL", "http://host"),
        ("REDIS_URL", "redis://:hush/hush@host/0"),
        ("REDIS_URL", "redis://host:hush"),
    ],
)
def test_a_variable_that_would_hang_or_end_the_stack_is_refused_by_its_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DUALFACE_{name}", value)
    with pytest.raises(PermanentError, match=f"DUALFACE_{name}: ") as raised:
        (Settings.load(), SourceLimits.load())
    assert "hush" not in raised.value.message, "an address may have a password"


@pytest.mark.parametrize(
    ("given", "level"), [("debug", "DEBUG"), ("Warn", "WARNING"), ("CRITICAL", "CRITICAL")]
)
def test_a_log_level_may_be_written_in_any_case(
    given: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALFACE_LOG_LEVEL", given)
    assert Settings.load().log_level == level


@pytest.mark.parametrize(
    "address",
    [
        "redis://h",
        "redis:///0",
        "rediss://u:p@h:1/0",
        "redis://[::1]:6379",
        "unix:///run/redis.sock",
    ],
)
def test_addresses_of_redis_are_taken(address: str) -> None:
    assert catalogue()["storage.redis_url"].check(address) == address
