"""Every section's checks hold for the settings that are made of them."""

from __future__ import annotations

from collections import Counter

import pytest

from shared.errors import PermanentError
from shared.settings import Settings, SourceLimits
from shared.settings.section import Section


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
