"""Face detection by ONNX Runtime on the CPU.

The small picture that the model sees is made straight from the planes of the frame: each plane is
shrunk, then YUV becomes the model's channels, in its order and range, in one step. No picture of
the full size is ever converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from services.infer.engines.looks import Look, look_of, one_by_one
from services.infer.engines.onnx_session import (
    ORT_ERRORS,
    RUN_ERRORS,
    is_out_of_memory,
    open_session,
    told,
)
from services.infer.families import DECODERS, Array, Candidates, suppress, to_faces
from shared.cuda.memory import Memory
from shared.errors import ErrorCode, OutOfMemoryError, PermanentError
from shared.faces import Face
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.models import ModelEntry

_TRIAL_PX = 64
"""Height of the picture for a trial run; a multiple of every model's side_multiple."""

# Rows R, G, B; columns Y, U, V: BT.601 limited range (ITU-R BT.601-7, 2.5). Which matrix and range
# a video really has changes colours by a few per cent, which a detector does not notice.
_YUV_TO_RGB = np.array(
    ((1.164383, 0.0, 1.596027), (1.164383, -0.391762, -0.812968), (1.164383, 2.017232, 0.0))
)
_YUV_ZERO = np.array((16.0, 128.0, 128.0))


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread, for this process: parallelism comes from processes."""
    cv2.setNumThreads(1)


class OnnxCpuDetector:
    """A `Detector`. Frames go through the model one by one: a batch is 0 to 25 % slower per frame
    on a CPU with one thread, as its activations no longer fit the cache.
    """

    memory: Memory = "host"

    def __init__(
        self,
        entry: ModelEntry,
        path: Path,
        *,
        threads: int = 1,
        long_side_px: int | None = None,
        second_long_side_px: int | None = None,
    ) -> None:
        """Load the model of `entry` from `path`; the sizes default to those of the entry.

        Raises PermanentError(MODEL_DAMAGED) when it is not a model with the expected outputs.
        """
        self._entry = entry
        self._side = long_side_px or entry.long_side_px
        self._second_side = (
            entry.second_long_side_px if second_long_side_px is None else second_long_side_px
        )
        if entry.fixed_input is not None:
            self._second_side = 0  # it would be the first again
        self._decode = DECODERS[entry.family]
        self._matrix, self._offset = _colour_transform(entry)
        self._black: list[float] = ((0.0 - np.array(entry.mean)) * entry.scale).tolist()
        try:
            self._session = open_session(path, threads)
        except ORT_ERRORS as error:
            raise _damaged(entry, error) from error
        self._input: str = self._session.get_inputs()[0].name
        # a model of another family loads well and fails, or lies, only when run
        width, height = entry.fixed_input or (2 * _TRIAL_PX, _TRIAL_PX)
        self._candidates(np.zeros((1, 3, height, width), dtype=np.float32))

    @property
    def name(self) -> str:
        """Engine and model."""
        return f"onnx-cpu:{self._entry.name}"

    def detect(self, frames: Sequence[Planes], layout: FrameLayout) -> list[tuple[Face, ...]]:
        """See `Detector.detect`, and `looks.one_by_one`."""
        return one_by_one(
            frames,
            lambda planes: self._look(planes, layout, self._side),
            (lambda planes: self._look(planes, layout, self._second_side))
            if self._second_side > self._side
            else None,
        )

    def free(self) -> None:
        """See `Detector.free`: ONNX Runtime's arena on the CPU keeps no more than one frame's."""

    def _look(self, planes: Planes, layout: FrameLayout, side: int) -> tuple[Face, ...]:
        look = look_of(self._entry, layout, side)
        picture = self._picture(planes, layout, look)
        candidates = self._candidates(picture)
        best = suppress(candidates, self._entry.nms_threshold)
        scale_x, scale_y = layout.width / look.w, layout.height / look.h
        return to_faces(best, scale_x, scale_y, self._entry.sure_score)

    def _picture(self, planes: Planes, layout: FrameLayout, look: Look) -> Array:
        """The model's input (1, 3, h, w) float32; right and below of the picture is black."""
        small = _shrink(planes, layout, look.w, look.h)
        luma = small[0].astype(np.float32)
        width, height = look.padded
        picture = np.empty((1, 3, height, width), dtype=np.float32)
        for channel, (y, u, v), offset, black in zip(
            picture[0], self._matrix, self._offset, self._black, strict=True
        ):
            # not a matrix product: NumPy's runs on all cores, and they wait by spinning
            chroma = cv2.addWeighted(small[1], u, small[2], v, offset, dtype=cv2.CV_32F)
            channel[: look.h, : look.w] = cv2.scaleAdd(luma, y, chroma)
            channel[look.h :] = channel[:, look.w :] = black
        return picture

    def _candidates(self, picture: Array) -> Candidates:
        try:
            outputs = self._session.run(None, {self._input: picture})
            if not all(isinstance(each, np.ndarray) and each.dtype.kind == "f" for each in outputs):
                raise ValueError("not all its outputs are tensors of floating-point numbers")
            return self._decode(outputs, 0, picture.shape[3], self._entry.score_threshold)
        except RUN_ERRORS as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError("on the CPU") from error
            raise _damaged(self._entry, error) from error


def fixed_input(path: Path) -> tuple[int, int] | None:
    """The only size (width, height) in px that the model in `path` takes; None: it takes any.

    Raises PermanentError MODEL_DAMAGED for what is no model, or takes anything but one picture.
    """
    try:
        inputs = open_session(path, 1).get_inputs()
    except ORT_ERRORS as error:
        why = told(error).replace(str(path), "it")
        raise PermanentError(
            ErrorCode.MODEL_DAMAGED, f"the file is no model that ONNX Runtime can load ({why})"
        ) from error
    shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else ()
    given = [side if isinstance(side, int) and side > 0 else 0 for side in shape]
    if (
        len(given) != 4
        or given[0] > 1
        or given[1] not in (0, 3)
        or (given[2] > 0) != (given[3] > 0)
    ):
        takes = ", ".join(f"{each.type} {each.shape}" for each in inputs)
        raise PermanentError(
            ErrorCode.MODEL_DAMAGED,
            "a detection model has one input, tensor(float) [batch, 3, height, width] with any "
            f"batch or one, and this one has {takes or 'none'}; export it anew",
        )
    return (given[3], given[2]) if given[2] else None


def _colour_transform(entry: ModelEntry) -> tuple[list[list[float]], list[float]]:
    """For each channel of the model: factors of Y, U, V samples, and what is added to the sum."""
    order = slice(None) if entry.channels == "RGB" else slice(None, None, -1)
    matrix = _YUV_TO_RGB[order]
    offset = -(matrix @ _YUV_ZERO) - np.array(entry.mean)
    return (matrix * entry.scale).tolist(), (offset * entry.scale).tolist()


def _shrink(planes: Planes, layout: FrameLayout, w: int, h: int) -> npt.NDArray[np.uint8]:
    """Y, U, V, each (h, w); chroma goes straight to the size of the picture."""
    small = np.empty((3, h, w), dtype=np.uint8)
    if layout.format is PixelFormat.NV12:
        pairs = planes[1].reshape(layout.chroma_height, layout.chroma_width, 2)
        small[1:] = _resize(pairs, w, h).transpose(2, 0, 1)
    else:
        small[1] = _resize(planes[1], w, h)
        small[2] = _resize(planes[2], w, h)
    small[0] = _resize(planes[0], w, h)
    return small


def _resize(plane: Plane, w: int, h: int) -> Plane:
    """Halve by averaging 2x2 as long as it fits, then interpolate.

    Free of aliasing as INTER_AREA all the way is, in a fifth of its time: only the step by exactly
    two is vectorised in OpenCV. A last odd row or column is left out.
    """
    while plane.shape[0] >= 2 * h and plane.shape[1] >= 2 * w:
        half_h, half_w = plane.shape[0] // 2, plane.shape[1] // 2
        even = plane[: 2 * half_h, : 2 * half_w]
        plane = np.asarray(
            cv2.resize(even, (half_w, half_h), interpolation=cv2.INTER_AREA), dtype=np.uint8
        )
    if plane.shape[:2] == (h, w):
        return plane
    return np.asarray(cv2.resize(plane, (w, h), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _damaged(entry: ModelEntry, error: Exception) -> PermanentError:
    return PermanentError(
        ErrorCode.MODEL_DAMAGED,
        f"the detection model {entry.name} can't be used ({told(error)}); {entry.remedy}",
    )
