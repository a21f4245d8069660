"""INT8 and FP16 copies of a model: where they lie, how good they were found to be, which is used.

Beside the models of the cache lie, for a model NAME:

    NAME.int8.onnx                   the copy, made by `dualface models quantize`
    NAME.int8.onnx.json              `VariantReceipt`: hashes of it and of what it was made from
    NAME.int8.calibration.json       `CalibrationLog`: what it was calibrated on
    NAME.int8.evaluation.json        `Evaluation`: how it compares with the model itself
    NAME.fp16.onnx, ...              the same for FP16, without a calibration

Everything is bound by hashes: where the model or its copy is another file than the one that was
evaluated, the evaluation says nothing and FP32 is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from shared.assets import sha256_of
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model
from shared.models.cache import locate
from shared.models.catalogue import Sha256

Precision = Literal["int8", "fp16", "fp32"]
Variant = Literal["int8", "fp16"]
Wanted = Literal["auto", "fp32", "fp16", "int8"]
Device = Literal["cpu", "gpu"]

RECIPE = 1
"""Raised when a copy is made in another way than before: older ones are made anew."""

WORTH_IT = 1.1
"""A CPU uses INT8 only where it was measured to be this many times as fast as FP32."""

Points = float
"""A difference of two rates, in percentage points."""


class Condition(StrEnum):
    """What makes a face hard to find, most telling first; a frame or face has one."""

    LOW_LIGHT = "low_light"
    BACKLIGHT = "backlight"
    OCCLUSION = "occlusion"
    PROFILE = "profile"
    MOTION_BLUR = "motion_blur"
    NORMAL = "normal"


SHOWN = (Condition.NORMAL, *(each for each in Condition if each is not Condition.NORMAL))
"""The order in which people are shown them: what is usual comes first."""


class Verdict(StrEnum):
    """Whether a copy may be used instead of the model itself."""

    EXCELLENT = "EXCELLENT"
    ACCEPTABLE = "ACCEPTABLE"
    NOT_RECOMMENDED = "NOT_RECOMMENDED"


class VariantReceipt(Model):
    """Of a copy: `base_sha256` is of the FP32 model it was made from, `file_sha256` its own."""

    base_sha256: Sha256
    file_sha256: Sha256
    recipe: int


class CalibrationFrame(Model):
    """One picture that INT8's ranges were measured on. `time_s` is None for an image file;
    `pixels_sha256` is of its BGR samples as they were given to the model's pre-processing."""

    file: str
    file_sha256: Sha256
    time_s: float | None
    condition: Condition
    pixels_sha256: Sha256


class CalibrationLog(Model):
    """How an INT8 copy came to be; the same inputs, seed and versions give the same bytes."""

    schema_version: Literal[1] = 1
    model: str
    seed: int
    wanted: int = Field(description="frames asked for; fewer where the files have fewer")
    base_sha256: Sha256
    file_sha256: Sha256
    method: str
    activations: str
    weights: str
    per_channel: bool
    opset: int
    float_nodes: tuple[str, ...] = Field(description="left in FP32: what makes boxes of features")
    inputs: tuple[tuple[int, int], ...] = Field(description="sizes (w, h) given to the model, px")
    versions: dict[str, str]
    found: dict[Condition, int] = Field(description="frames looked at, by condition")
    frames: tuple[CalibrationFrame, ...]


class Rates(Model):
    """One model on one set of labelled faces. Shares are 0..1, None where nothing was there to
    count; `extra` are detections that no label explains, at the model's own score threshold."""

    found: int = Field(ge=0)
    missed: int = Field(ge=0)
    extra: int = Field(ge=0)
    precision: float | None
    miss_rate: float | None
    average_precision: float | None = Field(description="area under precision over recall, IoU 0.5")


class Row(Model):
    """Both models on the labelled faces of one condition, or of all.

    `lost` faces were found by FP32 only, `gained` by the copy only. Of faces that both found:
    `score_change` is the mean of copy minus FP32, `box_iou` the mean overlap of the two boxes,
    `fp32_iou` and `variant_iou` those with the label.
    """

    condition: Condition | Literal["all"]
    faces: int = Field(ge=0)
    fp32: Rates
    variant: Rates
    lost: int
    gained: int
    precision_loss: Points | None = Field(
        description="the larger of the losses in precision and in average precision"
    )
    miss_rate_rise: Points | None
    miss_rate_rise_95: tuple[Points, Points] | None = Field(description="interval, 95 %")
    score_change: float | None
    box_iou: float | None
    fp32_iou: float | None
    variant_iou: float | None


class Speed(Model):
    """Medians of single runs on this CPU, one thread, taken in turns; milliseconds."""

    input: tuple[int, int]
    fp32_ms: float
    variant_ms: float
    runs: int

    @property
    def ratio(self) -> float:
        """How many times as fast as FP32 the copy is."""
        return self.fp32_ms / self.variant_ms


class Evaluation(Model):
    """How a copy of a model compares with the model itself on a labelled set.

    `measured` is what the differences alone say; `verdict` takes into account whether there were
    enough faces to measure such small differences. Only `verdict` decides about use.
    """

    schema_version: Literal[1] = 1
    model: str
    precision: Variant
    verdict: Verdict
    measured: Verdict
    enough_faces: bool
    face_weighs: Points | None = Field(description="what one face changes the miss rate by")
    reasons: tuple[str, ...]
    score_threshold: float = Field(description="the model's own, on its own scale")
    base_sha256: Sha256
    file_sha256: Sha256
    labels: str
    labels_sha256: Sha256
    pictures: int
    ignored_faces: int
    overall: Row
    by_condition: tuple[Row, ...]
    cpu: Speed | None
    versions: dict[str, str]
    made: str = Field(description="UTC, ISO 8601")


class QuantizeRequest(Model):
    """What `dualface models quantize` asks for. Paths are absolute."""

    name: str
    frames: tuple[Path, ...]
    seed: int = 1
    count: Annotated[int, Field(ge=1, le=4096)] = 128


class EvaluateRequest(Model):
    """What `dualface models evaluate` asks for. Paths are absolute."""

    name: str
    precision: Variant = "int8"
    labels: Path
    images: Path | None = None
    report: Path | None = None


class Progress(Model):
    """A line on standard error of the process that does the work, now and then."""

    what: str
    done: int
    of: int


class Quantized(Model):
    """The answer to `QuantizeRequest`."""

    file: Path
    log: CalibrationLog


class Evaluated(Model):
    """The answer to `EvaluateRequest`; `file` is where the evaluation is kept.

    `former`: what lies there instead and goes on deciding, an evaluation of the same two files on
    enough faces, where the new one had too few.
    """

    file: Path
    evaluation: Evaluation
    former: Evaluation | None = None


def variant_path(cache: Path, name: str, precision: Variant) -> Path:
    """Where the copy lies."""
    return cache / f"{name}.{precision}.onnx"


def receipt_path(cache: Path, name: str, precision: Variant) -> Path:
    """Where the copy's receipt lies."""
    return cache / f"{name}.{precision}.onnx.json"


def calibration_path(cache: Path, name: str) -> Path:
    """Where the log of INT8's calibration lies."""
    return cache / f"{name}.int8.calibration.json"


def evaluation_path(cache: Path, name: str, precision: Variant) -> Path:
    """Where the outcome of the last evaluation lies, or of a better-founded one before it."""
    return cache / f"{name}.{precision}.evaluation.json"


def find_variant(
    name: str, precision: Variant, cache: Path, extra_folders: Sequence[Path] = ()
) -> Path | None:
    """The copy, if it is sound and of the model as it is now. Raises PermanentError as `locate`."""
    path = variant_path(cache, name, precision)
    try:
        text = receipt_path(cache, name, precision).read_text()
        receipt = VariantReceipt.read_kept(text)
        base = sha256_of(locate(name, cache, extra_folders))
        wanted = VariantReceipt(base_sha256=base, file_sha256=sha256_of(path), recipe=RECIPE)
    except (OSError, ValidationError):
        return None
    return path if receipt == wanted else None


def read_evaluation(
    name: str, precision: Variant, cache: Path, extra_folders: Sequence[Path] = ()
) -> Evaluation | None:
    """What was found out about the copy that is there now; None where nothing was.

    Raises PermanentError as `locate`.
    """
    copy = find_variant(name, precision, cache, extra_folders)
    if copy is None:
        return None
    try:
        text = evaluation_path(cache, name, precision).read_text()
        found = Evaluation.read_kept(text)
        same = (
            found.model == name
            and found.precision == precision
            and found.base_sha256 == sha256_of(locate(name, cache, extra_folders))
            and found.file_sha256 == sha256_of(copy)
        )
    except (OSError, ValidationError):
        return None
    return found if same else None


def adopted_precision(
    name: str, cache: Path, extra_folders: Sequence[Path] = (), *, device: Device = "gpu"
) -> Precision:
    """The precision that "auto" means for a model. Raises PermanentError as `locate`.

    INT8 only where its evaluation says ACCEPTABLE or EXCELLENT; on a CPU it must also have been
    measured to be faster. Else FP16 on a GPU, unless its own evaluation speaks against it.
    """
    found = read_evaluation(name, "int8", cache, extra_folders)
    if found is not None and found.verdict is not Verdict.NOT_RECOMMENDED:
        faster = found.cpu is not None and found.cpu.ratio >= WORTH_IT
        if device == "gpu" or faster:
            return "int8"
    if device == "cpu":
        return "fp32"  # its arithmetic has no FP16: such a model is only slower
    half = read_evaluation(name, "fp16", cache, extra_folders)
    against = half is not None and half.enough_faces and half.verdict is Verdict.NOT_RECOMMENDED
    return "fp32" if against else "fp16"


def locate_precision(
    name: str,
    wanted: Wanted,
    cache: Path,
    extra_folders: Sequence[Path] = (),
    *,
    device: Device = "cpu",
) -> tuple[Path, Precision]:
    """The file to load for a precision, and which it is; downloads and makes nothing.

    FP16 is the FP32 file on a GPU, whose engines halve it by themselves. A CPU calculates in FP32
    what somebody wants in FP16: it has no such arithmetic, and takes over where a GPU fails.
    Raises PermanentError as `locate`, and MODEL_MISSING for an INT8 copy that a person named and
    that is not there, or is of another file than the model now is.
    """
    chosen: Precision
    if wanted == "auto":
        chosen = adopted_precision(name, cache, extra_folders, device=device)
    else:
        chosen = wanted
    if chosen == "fp16" and device == "cpu":
        chosen = "fp32"
    if chosen != "int8":
        return locate(name, cache, extra_folders), chosen
    path = find_variant(name, chosen, cache, extra_folders)
    if path is None:
        raise PermanentError(
            ErrorCode.MODEL_MISSING,
            f"there is no INT8 copy of the detection model {name} as it is now in {cache}; run "
            f"'dualface models quantize {name} --frames VIDEO...'",
        )
    return path, chosen
