"""When something counts as dead, stuck or hopeless."""

from typing import ClassVar

from pydantic import Field

from shared.drill import Drill
from shared.settings.section import WEEK_S, Section


class Recovery(Section):
    """When something counts as dead, stuck or hopeless."""

    section: ClassVar[str] = "recovery"

    heartbeat_s: float = Field(
        default=1.0, gt=0, le=WEEK_S, description="Between two signs of life."
    )
    dead_after_s: float = Field(
        default=5.0,
        gt=0,
        le=WEEK_S,
        description="Silence after which a worker counts as dead; five beats.",
    )
    unclaimed_after_s: float = Field(
        default=15.0,
        gt=0,
        le=WEEK_S,
        description="After this long a message that nobody took up is sent again; doubled with "
        "every repeat. Longer than a queue takes to come to it, as a rule.",
    )
    lease_s: float = Field(
        default=20.0,
        gt=0,
        le=WEEK_S,
        description="Time to live of a slot's or session's lease; the holder (or, for a waiting "
        "batch, the coordinator) renews it at every third of that.",
    )
    slot_wait_s: float = Field(
        default=60.0,
        gt=0,
        le=WEEK_S,
        description="Longest wait for a slot before a stage gives its work back.",
    )
    busy_patience_s: float = Field(
        default=120.0,
        ge=0,
        le=WEEK_S,
        description="How long a driver may refuse a session (other programs hold some) until the "
        "next engine takes over.",
    )
    stall_s: float = Field(
        default=120.0,
        ge=0,
        le=WEEK_S,
        description="A stage that does not get on for so long is ended, and its work done again: "
        "many times what its slowest step takes. 0: never.",
    )
    drain_s: float = Field(
        default=25.0,
        gt=0,
        le=WEEK_S,
        description="From SIGTERM to the end of a worker at the latest; below the 30 s that "
        "Kubernetes allows.",
    )
    attempts: int = Field(default=4, ge=1, description="Tries of one piece of work, in all.")
    replaced_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Of a job's frames, how many may show the one before them, as they could not "
        "be made, until the job fails instead.",
    )
    failed_segments: int = Field(
        default=3,
        ge=0,
        description="Segments of one source that no decoder gets through, until its job fails: "
        "each has cost several processes. 0: only `replaced_share` counts.",
    )
    drills: tuple[Drill, ...] = Field(
        default=(), description="Faults on purpose, as a JSON list, for rehearsals and tests."
    )
