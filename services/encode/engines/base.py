"""What an encoder of chunks is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pydantic import Field

from services.encode.plan import QUALITY, RateControl
from shared.cuda.memory import Memory
from shared.errors import EngineError
from shared.jobs import Codec, Model, OutputPlan
from shared.media.layout import FrameLayout, Planes
from shared.sessions import SessionNeed

Frame = tuple[int, Planes]
"""pts in ticks of the output's time base, and the planes (borrowed until the next frame)."""


class ChunkInfo(Model):
    """Facts of a written chunk. `first_pts` and `last_pts` in ticks of the output's time base.

    Chunks of the same codec and size can be joined; those with the same `header_sha256` (parameter
    sets) share a description in the result.
    """

    frames: int = Field(ge=1)
    size_bytes: int = Field(ge=1, description="size of the file")
    first_pts: int
    last_pts: int
    header_sha256: str


class ChunkEncoder(Protocol):
    """Encodes one batch to one file that decodes by itself.

    Deterministic: the same frames, output, rate and threads give the same bytes, whatever was
    encoded before. Of hardware: by the same kind of device and driver, and where a session is kept,
    of constant quality, the same within that quality.
    """

    @property
    def memory(self) -> Memory:
        """Where the planes of `frames` have to lie. On a device they are NV12."""
        ...

    @property
    def session(self) -> SessionNeed | None:
        """The session of the hardware that `encode` opens, and may leave open; None for software.

        `encode` is called while the right to it is held.
        """
        ...

    def name_for(self, codec: Codec) -> str:
        """What encodes `codec`, for the job's result and for metrics."""
        ...

    def refusal(self, output: OutputPlan) -> EngineError | None:
        """Why it can't encode `output` here, as far as it knows already; None where it may.

        Never asks the device, so it needs no session; `encode` would raise the same.
        """
        ...

    def encode(
        self,
        frames: Iterable[Frame],
        layout: FrameLayout,
        output: OutputPlan,
        path: Path,
        rate: RateControl = QUALITY,
    ) -> ChunkInfo:
        """Write `frames`, in display order with strictly increasing pts, as a chunk at `path`.

        Blocks while encoding. The planes are read before the next frame is asked for and never
        kept. `path` is replaced as one step: it is never seen half written. Idempotent.

        Raises PermanentError: BAD_OPTION when the encoder refuses the output's options,
        SOURCE_EMPTY without frames, INTERNAL when times do not increase or `layout` is not the
        output's size, OUTPUT_UNWRITABLE; TemporaryError NO_SPACE when the disk is full;
        EngineBusyError, before the first frame is asked for, when the driver opens no session;
        EngineError, likewise, with `able` False when the device can't; with `able` True when it
        broke, at any frame; DeviceLostError.
        """
        ...
