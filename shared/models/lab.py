"""What the client asks of `services.infer.lab`, whose modules run in processes of their own: one
JSON object on standard input, one on standard output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from shared.errors import ErrorCode
from shared.jobs import Model
from shared.models.catalogue import ModelEntry, Side

REFUSED = 3
"""Exit code of a module that has a `Refusal` to say."""


class Refusal(Model):
    """The answer instead of the one asked for: an error as in `shared.errors`."""

    code: ErrorCode
    message: str


class TrialRequest(Model):
    """Load and run the model in `path` as `entry` says.

    `size_asked`: somebody wants `entry.fixed_input`; else it is a guess, and the file knows better.
    """

    entry: ModelEntry
    path: Path
    size_asked: bool = False
    threads: int = Field(default=1, ge=1)


class TrialAnswer(Model):
    """It runs.

    `entry` as it came, with `fixed_input` where the model takes one size only; `ms` of one frame,
    once; `seen` faces in a black picture, where there is none.
    """

    entry: ModelEntry
    ms: float
    seen: int


class Candidate(Model):
    """A model to measure."""

    entry: ModelEntry
    path: Path


class BenchRequest(Model):
    """Time each model on the same `frames` frames: the first of a video, else drawn ones."""

    models: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    frames: int = Field(ge=1, le=10_000)
    video: Path | None = None
    threads: int = Field(default=1, ge=1)


class BenchRow(Model):
    """One model at one size on one engine: milliseconds per frame, and their ratio to the first
    row's median.

    From planes of the frame to faces: shrinking, colours, the model, suppression. `picture` is what
    of the input (`w`, `h` in px) the frame fills.
    """

    name: str
    engine: str
    look: Literal["first", "second"]
    picture: tuple[int, int]
    input: tuple[Side, Side]
    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float


class BenchAnswer(Model):
    """`frame` is the size (w, h) of the frames that were looked at, in px."""

    rows: tuple[BenchRow, ...]
    frames: int
    frame: tuple[int, int]
    threads: int
