"""Which value counts for every setting, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from shared.settings.catalogue import Setting, catalogue
from shared.settings.contents import Layer, when
from shared.settings.layers import read_layer
from shared.settings.loading import Settings, SourceLimits
from shared.settings.places import DETECTED, MANUAL
from shared.settings.probing import PROBED

Kind = Literal["environment", "manual", "detected", "default"]


@dataclass(frozen=True, slots=True)
class Origin:
    """A layer's value for a setting. `text`: which layer, and what it knows of it."""

    kind: Kind
    value: object
    text: str


@dataclass(frozen=True, slots=True)
class Known:
    """A setting, with what all layers say of it, strongest first; the first counts."""

    setting: Setting
    origins: tuple[Origin, ...]

    @property
    def origin(self) -> Origin:
        """The layer that counts."""
        return self.origins[0]


def look() -> Mapping[str, Known]:
    """All settings by their dotted names, as a process that starts now would read them. Raises
    PermanentError BAD_OPTION for a variable that is wrong."""
    settings, limits = Settings.load(), SourceLimits.load()
    manual = read_layer(settings.config_dir / MANUAL) or Layer()
    detected = read_layer(settings.config_dir / DETECTED) or Layer()
    variables = {name.upper() for name in os.environ}  # lower case works, too
    found = {}
    for name, setting in catalogue().items():
        owner = limits if isinstance(limits, setting.owner) else settings
        found[name] = Known(
            setting,
            (
                *_given(setting, variables, getattr(owner, setting.field)),
                *_set(setting, manual),
                *_probed(setting, detected),
                Origin("default", setting.default, "default"),
            ),
        )
    return found


def _given(setting: Setting, variables: Collection[str], value: object) -> Iterator[Origin]:
    name = next((each for each in setting.variables if each in variables), None)
    if name is not None:
        yield Origin("environment", value, f"environment {name}")


def _set(setting: Setting, layer: Layer) -> Iterator[Origin]:
    entry = layer.entries.get(setting.name)
    if entry is not None:
        since = f"since {entry.since}" if entry.since else f"line {entry.line}"
        yield Origin("manual", setting.check(entry.value), _with(MANUAL, since, entry.reason))


def _probed(setting: Setting, layer: Layer) -> Iterator[Origin]:
    entry = layer.entries.get(setting.name)
    if entry is not None:
        probed = f"probed {when(layer.facts.get(PROBED)) or 'once'}"
        yield Origin("detected", setting.check(entry.value), _with(DETECTED, probed, entry.reason))


def _with(file: str, fact: str, reason: str) -> str:
    return f"{file} ({fact}{': ' if reason else ''}{reason})"
