"""What a job is: the request, the facts of its source, the plan of its output, its states.

The same models serve the command line, the queue, the ledger and (later) REST.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ErrorCode, PermanentError

JOB_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
"""The whole of an id, of uploads too: it is safe in paths, keys and names of files."""

Ratio = tuple[int, int]
"""An exact fraction (numerator, denominator); JSON keeps it as two integers."""


class Model(BaseModel):
    """Frozen value type; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read_kept(cls, text: str) -> Self:
        """From JSON that one of our processes wrote. Fields that a newer release has added are
        passed over: two releases may run side by side. Raises ValidationError."""
        return cls.model_validate_json(text, extra="ignore")


class JobState(StrEnum):
    """queued -> splitting -> running -> muxing -> succeeded | failed | cancelled."""

    QUEUED = "queued"
    SPLITTING = "splitting"
    RUNNING = "running"
    MUXING = "muxing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True when nothing more will happen to the job."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Layout(StrEnum):
    """Where the two tiles lie."""

    SIDE_BY_SIDE = "side-by-side"
    STACKED = "stacked"


class Codec(StrEnum):
    """Video codec of the result."""

    H264 = "h264"
    HEVC = "hevc"
    AV1 = "av1"


NAME_MOST = 255
"""Characters of a job's name."""

SMALLEST_PX = 64
"""Below it faces can't be seen and encoders' minimum sizes (hevc: one coding tree block) begin."""

LARGEST_SIDE_PX = 8192
LARGEST_AREA_PX = 139264 * 256
"""Level 6.2 of H.264 and HEVC, the highest there is: 139264 macroblocks of 16x16 px. AV1's is of
the same size."""

PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
"""The names that libx264 and libx265 share, fastest first; SVT-AV1's that fit are looked up."""

# Limits that came after jobs had been accepted without them are told in the schema and checked by
# `read_spec`: kept records, and what a service answers of them, have to stay readable.
Side = Annotated[
    int,
    Field(json_schema_extra={"minimum": SMALLEST_PX, "maximum": LARGEST_SIDE_PX, "multipleOf": 2}),
]
Size = Annotated[
    tuple[Side, Side],
    Field(description=f"width, height in px; both even, {SMALLEST_PX}..{LARGEST_SIDE_PX}"),
]

AV1_MOST_KBPS = 100_000
"""What SVT-AV1 takes as a bit rate, kbit/s."""


class JobSpec(Model):
    """A request: what a person chooses. Sizes in px; None means "derive from the source"."""

    source: str = Field(
        max_length=4096,
        repr=False,
        description="https://HOST/... or s3://BUCKET/KEY, fetched when the job begins; or the key "
        "of an object in the store. An address may hold a secret: show people `shown_source`",
    )
    name: str = Field(
        default="",
        description="what people call it, for example the file's name",
        json_schema_extra={"maxLength": NAME_MOST},
    )
    container: Literal["mp4", "mov"] = "mp4"
    layout: Layout = Layout.SIDE_BY_SIDE
    size: Size | None = None
    codec: Codec = Codec.H264
    crf: int = Field(default=23, ge=0, le=51)
    bitrate_kbps: int | None = Field(
        default=None,
        ge=50,
        le=800_000,
        description="kbit/s of the picture; `crf` is ignored then. Constant, or at most that much: "
        "a busy encoder of a GPU makes it variable at 70 % of it",
    )
    preset: str = Field(default="veryfast", json_schema_extra={"enum": list(PRESETS)})
    detector: str = "auto"
    detect_every: int | None = Field(default=None, ge=1, le=60, description="frames per detection")
    fps_limit: float | None = Field(default=None, gt=0, le=1000)
    annotate: bool = Field(
        default=False, description="draw a box around the face that each tile follows"
    )
    priority: int = Field(default=5, ge=0, le=9)
    webhook: str | None = Field(
        default=None,
        max_length=2000,
        pattern=r"^https?://[^\s]+$",
        description="address that is told when the job has ended, signed with its owner's secret",
    )


_NO_ADDRESS = "give an address that begins with http:// or https:// and has no blanks"
"""For the only field with a pattern, `webhook`."""


def read_spec(given: str | bytes | Mapping[str, object]) -> JobSpec:
    """A request as somebody sent it, JSON or what was made of it.

    Raises PermanentError BAD_OPTION naming the first thing wrong.
    """
    try:
        if isinstance(given, str | bytes):
            spec = JobSpec.model_validate_json(given)
        else:
            spec = JobSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "spec"
        reason = _NO_ADDRESS if first["type"] == "string_pattern_mismatch" else first["msg"]
        raise PermanentError(ErrorCode.BAD_OPTION, f"{where}: {reason}.") from error
    if len(spec.name) > NAME_MOST:
        raise _bad(f"name: it has {len(spec.name)} characters; at most {NAME_MOST} are kept.")
    check_choices(spec)
    return spec


def check_choices(spec: JobSpec) -> None:
    """Raises PermanentError BAD_OPTION for a preset or size that no job can have, and for choices
    that exclude each other, whatever the source."""
    if spec.preset not in PRESETS:
        raise _bad(f"There is no preset {spec.preset[:40]!r}; use one of {', '.join(PRESETS)}.")
    if spec.size is not None:
        _check_size(*spec.size)
    if spec.codec is not Codec.AV1:
        return
    if spec.container != "mp4":
        raise _bad(
            f"A .{spec.container} file can't hold AV1; choose mp4, or the codec h264 or hevc."
        )
    if (spec.bitrate_kbps or 0) > AV1_MOST_KBPS:
        raise _bad(
            f"AV1 is encoded with {AV1_MOST_KBPS} kbit/s at most, and {spec.bitrate_kbps} are "
            "asked for; choose less, or another codec."
        )


def _check_size(width: int, height: int) -> None:
    if min(width, height) < SMALLEST_PX or max(width, height) > LARGEST_SIDE_PX:
        raise _bad(
            f"A size of {width}x{height} px is outside of what can be made; each side must be"
            f" {SMALLEST_PX} to {LARGEST_SIDE_PX} px."
        )
    if width % 2 or height % 2:
        raise _bad(
            f"A size of {width}x{height} px has an odd side; both must be even, such as"
            f" {width // 2 * 2}x{height // 2 * 2}."
        )
    if width * height > LARGEST_AREA_PX:
        raise _bad(
            f"A size of {width}x{height} px has more pixels than any level of H.264, HEVC or AV1"
            f" allows ({LARGEST_AREA_PX}); choose a smaller one, such as 3840x2160."
        )


def _bad(message: str) -> PermanentError:
    return PermanentError(ErrorCode.BAD_OPTION, message)


class ColorTags(Model):
    """Code points of ISO/IEC 23091-2 (FFmpeg's AVCOL_* use the same numbers); 2 is "unspecified".

    `full_range` is True for 0..255 luma ("pc", yuvj), False for 16..235 ("tv").
    """

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    full_range: bool = False


class SoundInfo(Model):
    """One audio stream of the source. `stream` is its index in the source's container."""

    stream: int
    codec: str
    sample_rate: int
    channels: int
    copied: bool = Field(description="False: the result's container can't hold it, it becomes AAC")


class SourceInfo(Model):
    """Facts of a source, measured once; every stage reads them, none asks the file again.

    `width` and `height` are those of the upright picture (after `rotation`); a slot of the arena
    holds upright frames. `time_base` is the video stream's, seconds per tick.
    """

    format: str
    codec: str
    stream: int = Field(description="index of the chosen video stream")
    width: int
    height: int
    rotation: Literal[0, 90, 180, 270] = Field(
        default=0, description="degrees clockwise to turn a decoded frame to make it upright"
    )
    sample_aspect: Ratio = Field(default=(1, 1), description="of the upright picture")
    pixel_format: str = ""
    time_base: Ratio
    frame_rate: Ratio = Field(
        description="average; for estimates and generated times, never timing"
    )
    generated_times: bool = Field(
        default=False, description="the source has none: frame i (in display order) is at i / rate"
    )
    frames_estimate: int | None = None
    duration_s: float | None = None
    color: ColorTags = ColorTags()
    sounds: tuple[SoundInfo, ...] = ()
    size_bytes: int = 0

    @property
    def tick_s(self) -> Fraction:
        """Seconds per tick of `time_base`, exact."""
        return Fraction(*self.time_base)


class Segment(Model):
    """A run of whole GOPs as an object in the store, and which frames it owns.

    It owns the frames with `first_pts <= pts < end_pts` (None: unbounded), in ticks of the source's
    time base. The object may hold more packets than it owns frames of: with open GOPs the next
    keyframe and its leading pictures are in both neighbours, shown by exactly one.
    """

    index: int = Field(ge=0)
    key: str
    first_pts: int | None
    end_pts: int | None
    frames: int = Field(ge=0, description="frames owned, by packet count; damage may yield fewer")
    previous_pts: int | None = Field(
        default=None,
        description="pts of the frame shown before the first owned one (for fps limit)",
    )
    size_bytes: int = 0


class Rect(Model):
    """Whole pixels: left, top, width, height. In an output picture all four are even."""

    x: int
    y: int
    w: int
    h: int


class OutputPlan(Model):
    """The picture to make: canvas and the two tiles, left/top person first. Square pixels."""

    width: int
    height: int
    tiles: tuple[Rect, Rect]
    codec: Codec
    crf: int
    preset: str
    color: ColorTags
    time_base: Ratio
    frame_rate: Ratio
