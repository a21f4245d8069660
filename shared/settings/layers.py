"""The layers below the environment: `manual_config.yaml`, then `auto_detected.yaml`.

A broken entry is told of, once per process, and the next layer has its say; nothing dies of it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from shared.settings.places import DETECTED, config_dir

if TYPE_CHECKING:  # what reads a file is imported when there is one
    from shared.settings.contents import Layer


class _Stamp(NamedTuple):
    """Another one when the file is another: people save it, we replace it."""

    inode: int
    mtime_ns: int
    size: int


class FileSource(PydanticBaseSettingsSource):
    """A file as a source of pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], name: str) -> None:
        super().__init__(settings_cls)
        self._name = name

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: `__call__` answers for all fields."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Values by field, of the class that asks."""
        folder = self.current_state.get("config_dir") or config_dir()
        layer = read_layer(Path(folder) / self._name)
        return {} if layer is None else layer.values_for(self.settings_cls)


def read_layer(path: Path) -> Layer | None:
    """What counts of a file as it is now; None where there is none. Raises nothing."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return _read_and_told(path, _Stamp(facts.st_ino, facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=4)
def _read_and_told(path: Path, stamp: _Stamp) -> Layer:  # noqa: ARG001 - reads anew by it
    """Remembered, so that limits of sources, which are loaded for every source, cost no parsing,
    and a problem is told of once."""
    from shared.logs import Log
    from shared.settings.contents import checked, read

    layer = checked(read(path, detected=path.name == DETECTED))
    for problem in layer.problems:
        Log().warning(str(problem))
    return layer
