"""Settings and limits of sources, read from all layers.

Strongest first: what a process is given, the environment, `manual_config.yaml`,
`auto_detected.yaml`, defaults.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from shared.errors import ErrorCode, PermanentError
from shared.settings.layers import FileSource
from shared.settings.places import DETECTED, MANUAL
from shared.settings.section import ENVIRONMENT
from shared.settings.sections.api import Api
from shared.settings.sections.gpu import Gpu
from shared.settings.sections.memory import Memory
from shared.settings.sections.monitoring import Monitoring
from shared.settings.sections.performance import Performance
from shared.settings.sections.picture import Picture
from shared.settings.sections.recovery import Recovery
from shared.settings.sections.sources import Bounds, Sources
from shared.settings.sections.storage import Storage


class _Layered(BaseSettings):
    """Reads the layers."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Strongest first; below them are the fields' defaults."""
        files = (FileSource(settings_cls, MANUAL), FileSource(settings_cls, DETECTED))
        return init_settings, env_settings, *files

    @classmethod
    def load(cls) -> Self:
        """From all layers. Raises PermanentError BAD_OPTION naming the first variable of the
        environment that is wrong; broken files are passed over."""
        for name in sorted(os.environ):
            if name.startswith(ENVIRONMENT) and name.lower() not in _variables():
                _tell_misspelt(name)
        try:
            return cls()
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            reason = f"{_variable(cls.model_config, error)}: {said}."
        except SettingsError as error:
            reason = f"A {ENVIRONMENT} variable can't be read: {error}."
        raise PermanentError(ErrorCode.BAD_OPTION, reason)


@cache
def _tell_misspelt(name: str) -> None:
    """Once per process, and only where a setting's name is near: a cluster may set others that
    begin like ours, for its services."""
    from shared.logs import Log
    from shared.settings.catalogue import nearest_variable

    if near := nearest_variable(name):
        Log().warning(f"The environment has {name}, which is no setting; did you mean {near}?")


def _variable(config: SettingsConfigDict, error: ValidationError) -> str:
    """The one that the first wrong value came by: a setting may have an old name, too."""
    from shared.settings.catalogue import find  # when something is wrong

    name = f"{config.get('env_prefix')}{error.errors()[0]['loc'][0]}".upper()
    setting = find(name)
    names = setting.variables if setting is not None else (name,)
    return next((each for each in names if each in os.environ), name)


class SourceLimits(Bounds, _Layered):
    """Limits of a source: what a file from outside may be at most.

    Of their own, as whatever opens a source reads them, also where no worker runs.
    """

    model_config = SettingsConfigDict(
        env_prefix=Bounds.prefix, frozen=True, extra="forbid", defer_build=False
    )


class Settings(
    Performance, Gpu, Memory, Picture, Storage, Sources, Recovery, Api, Monitoring, _Layered
):
    """All settings of all processes; a process uses the part it needs."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT,
        env_prefix_target="all",  # of old names, too
        frozen=True,
        extra="ignore",
        defer_build=False,
    )

    @property
    def store_path(self) -> Path:
        """Root of the directory store."""
        return self.store_dir or self.state_dir / "store"

    @property
    def scratch_path(self) -> Path:
        """Root of the folders for files on their way to and from S3."""
        return self.scratch_dir or self.state_dir / "scratch"

    @property
    def metrics_path(self) -> Path:
        """Where the figures of this host's processes lie."""
        return self.metrics_dir or self.state_dir / "run" / "metrics"


@cache
def _variables() -> frozenset[str]:
    """All of them, in lower case, old names too."""
    return frozenset(
        f"{prefix}{name}".lower()
        for made, prefix in ((Settings, ENVIRONMENT), (SourceLimits, Bounds.prefix))
        for field, info in made.model_fields.items()
        for name in getattr(info.validation_alias, "choices", [field])
    )
