"""All settings by their dotted names: how each is called, checked and shown."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from shared.settings.section import Section
from shared.settings.sections import SECTIONS

HIDDEN = "********"
_CREDENTIALS = re.compile(r"://.*@")
_QUERY = re.compile(r"(://[^?]*)\?.*")
WHOLE = "a path in a file has to be whole, from / on"
ENVIRONMENT_ONLY = ("storage.config_dir",)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of one section."""

    name: str
    field: str
    owner: type[Section]

    @property
    def info(self) -> FieldInfo:
        """What pydantic knows of it."""
        return self.owner.model_fields[self.field]

    @property
    def section(self) -> str:
        """Of the name, what is before the dot."""
        return self.owner.section

    @property
    def variable(self) -> str:
        """Name in the environment."""
        return self.owner.variable(self.field)

    @property
    def variables(self) -> tuple[str, ...]:
        """With older names that still work, the strongest first."""
        alias = self.info.validation_alias
        fields = alias.choices if isinstance(alias, AliasChoices) else [self.field]
        return tuple(self.owner.variable(str(each)) for each in fields)

    @property
    def secret(self) -> bool:
        """Never shown, and never in a file of settings."""
        return self.info.annotation is SecretStr

    @property
    def default(self) -> object:
        """On this machine."""
        return self.info.get_default(call_default_factory=True, validated_data={})

    def check(self, value: object) -> object:
        """The value as the field has it. Raises ValueError with a few words."""
        try:
            return getattr(self.owner.model_validate({self.field: value}), self.field)
        except ValidationError as error:
            raise ValueError(explained(error)) from error

    def plain(self, value: object) -> object:
        """A checked value as JSON and YAML have it; a secret only says that it is there."""
        if isinstance(value, SecretStr):
            return HIDDEN if value.get_secret_value() else ""
        return to_jsonable_python(value)

    def shown(self, value: object) -> object:
        """As `plain`, without what URLs have of passwords."""
        return _without_passwords(self.plain(value))


def explained(error: ValidationError) -> str:
    """The first thing that is wrong, without the value: it may be a secret."""
    message = error.errors(include_input=False, include_url=False)[0]["msg"]
    return message.removeprefix("Value error, ")


@cache
def catalogue() -> Mapping[str, Setting]:
    """Every setting, by its dotted name, section by section."""
    found = [
        Setting(owner.dotted(field), field, owner)
        for owner in SECTIONS
        for field in owner.model_fields
    ]
    return MappingProxyType({each.name: each for each in found})


def find(name: str) -> Setting | None:
    """By its dotted name or its variable."""
    known = catalogue()
    if name in known:
        return known[name]
    return next((each for each in known.values() if name in each.variables), None)


def nearest(name: str) -> str:
    """How a name that nobody knows may have been meant: `; did you mean A, B?`, or nothing."""
    known = catalogue()
    last = name.rpartition(".")[2]
    close = [each for each in known if each.rpartition(".")[2] == last]
    close += difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(dict.fromkeys(close[:2]))}?" if close else "."


def nearest_variable(name: str) -> str:
    """The variable that a name which is none is a misspelling of, "" where it is of no one's."""
    names = [each for known in catalogue().values() for each in known.variables]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.9)), "")


def not_in_files(setting: Setting) -> str:
    """Why the setting may not stand in a file, a sentence; or nothing."""
    if setting.secret:
        return (
            f"{setting.name} is a secret, and the file is not for secrets; set {setting.variable}."
        )
    if setting.name in ENVIRONMENT_ONLY:
        return f"{setting.name} says where the file is, so set {setting.variable}."
    return ""


def is_relative(value: object) -> bool:
    """A path, or one of several, that depends on the working directory; `~` is a shell's word."""
    paths = value if isinstance(value, tuple) else (value,)
    return any(isinstance(each, Path) and not each.is_absolute() for each in paths)


def as_text(value: object) -> str:
    """A plain value on one line."""
    if value is None:
        return "(none)"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _without_passwords(value: object) -> object:
    if isinstance(value, str):
        return _QUERY.sub(rf"\1?{HIDDEN}", _CREDENTIALS.sub(f"://{HIDDEN}@", value))
    if isinstance(value, list):
        return [_without_passwords(each) for each in value]
    return value
