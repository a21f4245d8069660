"""What the result looks like, where a job doesn't say."""

from typing import ClassVar

from pydantic import Field

from shared.settings.section import Section


class Picture(Section):
    """What the result looks like, where a job doesn't say."""

    section: ClassVar[str] = "picture"

    swap_dwell_frames: int = Field(
        default=15, ge=0, description="How long two people must have changed sides before their "
        "tiles do; counted at 30 frames/s (15 = 0.5 s)."
    )  # fmt: skip
    swap_margin: float = Field(
        default=0.10, ge=0, le=1, description="And by how much, as a share of the frame's width."
    )
