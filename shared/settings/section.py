"""What a section of the settings is: fields that belong together, under one name."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

ENVIRONMENT = "DUALFACE_"
"""What the names of all our variables begin with."""
MIB = 1024 * 1024
WEEK_S = 7 * 24 * 3600.0
"""Nothing that waits needs longer; clocks and timers overflow beyond some centuries."""


class Section(BaseModel):
    """Fields of one section. They have three names: `encode_workers` in Python,
    `performance.encode_workers` in files and commands, `DUALFACE_ENCODE_WORKERS` in the
    environment.

    A section alone reads nothing: it checks values. `Settings` and `SourceLimits` are made of
    sections, and read.
    """

    # Checking by a section alone is rare; what is read is built at once.
    # No number of ours has infinity as a meaning.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True, allow_inf_nan=False)

    section: ClassVar[str] = ""
    omitted: ClassVar[str] = ""
    """What a dotted name leaves out, as the section's name says it: `gpu_devices` is
    `gpu.devices`."""
    prefix: ClassVar[str] = ENVIRONMENT
    """Of the variables in the environment."""

    @classmethod
    def dotted(cls, field: str) -> str:
        """Name of the field in files and commands."""
        name = cls.variable(field).removeprefix(ENVIRONMENT).lower()
        return f"{cls.section}.{name.removeprefix(cls.omitted)}"

    @classmethod
    def variable(cls, field: str) -> str:
        """Name of the field in the environment."""
        return f"{cls.prefix}{field.upper()}"
