"""Shared memory for frames on their way."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from shared.settings.section import Section


class Memory(Section):
    """Shared memory for frames on their way."""

    section: ClassVar[str] = "memory"

    shm_dir: Path = Field(default=Path("/dev/shm"), description="Where POSIX arenas lie; a tmpfs.")
    arena: str = Field(default="cpu0", description="Arena (a host's or a GPU's) of this worker.")
    arena_mib: int | None = Field(
        default=None,
        ge=8,
        description="Memory for frames on their way. Default: 640 MiB (six slots of 35 frames "
        "1080p), at most a quarter of the memory and half of what is free in `shm_dir`.",
    )
    decoded_slots: int = Field(
        default=3, ge=2, description="Batches between decode and compose: one being decoded, one "
        "inferred, one composed."
    )  # fmt: skip
    composed_slots: int = Field(
        default=3, ge=1, description="Batches between compose and encode: one for each encoder of "
        "two cores and one being composed."
    )  # fmt: skip
