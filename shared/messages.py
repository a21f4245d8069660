"""What travels between processes: small, versioned, frozen. Never pixels, never pickles."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from shared.arena.base import Pool
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model, Segment
from shared.leases import Lease
from shared.media.layout import FrameLayout

LARGEST_BYTES = 8 * 1024
"""No stage message may be larger; a batch of 64 frames with 19-digit timestamps stays below."""


VERSION = 2


class SlotRef(Model):
    """Where a batch lies: arena and slot, and the lease that makes it this batch's."""

    arena: str
    generation: str
    pool: Pool
    slot: int = Field(ge=0)
    token: int = Field(ge=0)
    holder: str

    def lease(self) -> Lease:
        """The lease behind the slot."""
        return Lease(f"slots:{self.arena}:{self.pool}", self.holder, self.slot, self.token)


class ForeignSlot(SlotRef):
    """As another release wrote it."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Message(Model):
    """Base: the version lets two releases run side by side."""

    v: Literal[2] = 2
    job: str

    @property
    def item(self) -> str:
        """Which piece of the job's work this is, as the ledger names it."""
        raise NotImplementedError


M = TypeVar("M", bound=Message)


class SplitMessage(Message):
    """To `decode.split`: cut the job's source."""

    @property
    def item(self) -> str:
        return "split"


class SegmentMessage(Message):
    """To `decode.segment`: decode `segment` into batches of at most `batch_frames`."""

    segment: Segment
    batch_frames: int
    attempt: int = 1

    @property
    def item(self) -> str:
        return f"segment:{self.segment.index}"


class BatchMessage(Message):
    """To `infer.batch`, `compose.batch`, `encode.batch`: frames in a slot, in display order.

    `pts` are source ticks, strictly increasing; frame i of the slot is shown at `pts[i]`.
    `decoded_ns`: when its last frame was decoded, CLOCK_MONOTONIC, which all processes of a host
    share, as they do the arena; 0: unknown.
    """

    segment: int = Field(ge=0)
    batch: int = Field(ge=0)
    layout: FrameLayout
    pts: tuple[int, ...] = Field(min_length=1, max_length=64)
    slot: SlotRef
    decoded_ns: int = Field(default=0, ge=0)

    @property
    def name(self) -> str:
        """`segment:batch`, unique within the job."""
        return f"{self.segment}:{self.batch}"

    @property
    def item(self) -> str:
        return self.name


class ReplaceMessage(Message):
    """To `encode.replace`: a batch that can't be made; its frames show the last good one.

    `pts` as in BatchMessage; `why` is a sentence for the result's warnings.
    """

    segment: int = Field(ge=0)
    batch: int = Field(ge=0)
    pts: tuple[int, ...] = Field(min_length=1, max_length=64)
    why: str = Field(default="", max_length=500)

    @property
    def name(self) -> str:
        """As `BatchMessage.name`."""
        return f"{self.segment}:{self.batch}"

    @property
    def item(self) -> str:
        return f"replace:{self.name}"


class MuxMessage(Message):
    """To `encode.mux`: every chunk is there, make the result."""

    @property
    def item(self) -> str:
        return "mux"


class ForeignBatch(BatchMessage):
    """A batch of another release, to be kept track of and sent on as it came, never worked on.

    What a coordinator needs of it (job, segment, batch, times, slot) is never renamed or removed.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    v: int = 0  # type: ignore[assignment]
    layout: Any = None
    slot: ForeignSlot


def read_batch(text: str) -> BatchMessage:
    """A batch that the ledger knows; a ForeignBatch when another release wrote it."""
    try:
        return BatchMessage.model_validate_json(text)
    except ValidationError:
        return ForeignBatch.model_validate_json(text)


def read_replace(text: str) -> ReplaceMessage:
    """A batch that was given up, as this release says it, whichever wrote it down."""
    body = json.loads(text)
    return ReplaceMessage.model_validate({**body, "v": VERSION}, extra="ignore")


class UnknownVersionError(PermanentError):
    """A message of another release, which a worker of that release can read."""


def parse(kind: type[M], body: object) -> M:
    """The message in `body`. Raises PermanentError BAD_OPTION naming the first thing wrong, its
    kind UnknownVersionError when that is the version."""
    version = body.get("v") if isinstance(body, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise UnknownVersionError(
            ErrorCode.BAD_OPTION,
            f"a {kind.__name__} of version {version}; this release reads version {VERSION}",
        )
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"not a {kind.__name__}: {where}: {first['msg']}"
        ) from error
