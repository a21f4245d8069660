"""Face detection by ONNX Runtime on the CPU.

The small picture that the model sees is made straight from the planes of the frame: each plane is
shrunk, then YUV becomes the model's channels, in its order and range, in one step. No picture of
the full size is ever converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from services.infer.families import DECODERS, Array, Candidates, suppress, to_faces
from services.infer.plan import input_size, picture_size
from shared.errors import ErrorCode, OutOfMemoryError, PermanentError
from shared.faces import Face
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.models import ModelEntry

PEOPLE = 2
"""A frame with fewer faces than this at the first look gets the second, larger one."""

PATIENCE = 2
MOST_PATIENCE = 3
"""Larger looks in vain that a batch begins with, and the most it can earn by looks that helped."""

_TRIAL_PX = 64
"""Height of the picture for a trial run; a multiple of every model's side_multiple."""

# Rows R, G, B; columns Y, U, V: BT.601 limited range (ITU-R BT.601-7, 2.5). Which matrix and range
# a video really has changes colours by a few per cent, which a detector does not notice.
_YUV_TO_RGB = np.array(
    ((1.164383, 0.0, 1.596027), (1.164383, -0.391762, -0.812968), (1.164383, 2.017232, 0.0))
)
_YUV_ZERO = np.array((16.0, 128.0, 128.0))


# ONNX Runtime's errors have no common base
_ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_OUT_OF_MEMORY = "Failed to allocate memory"
"""What ONNX Runtime's allocators say."""

_RUN_ERRORS: tuple[type[Exception], ...] = (*_ORT_ERRORS, ValueError, IndexError)


@dataclass(frozen=True)
class _Look:
    """One size of picture: `w`, `h` of the picture, `padded` (w, h) of the model's input, in px."""

    w: int
    h: int
    padded: tuple[int, int]


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread, for this process: parallelism comes from processes."""
    cv2.setNumThreads(1)


class OnnxCpuDetector:
    """A `Detector`. Frames go through the model one by one: a batch is 0 to 25 % slower per frame
    on a CPU with one thread, as its activations no longer fit the cache.
    """

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
        self._decode = DECODERS[entry.family]
        self._matrix, self._offset = _colour_transform(entry)
        try:
            self._session = _open(path, threads)
        except _ORT_ERRORS as error:
            raise _damaged(entry.name, error) from error
        self._input: str = self._session.get_inputs()[0].name
        # a model of another family loads well and fails, or lies, only when run
        self._candidates(np.zeros((1, 3, _TRIAL_PX, 2 * _TRIAL_PX), dtype=np.float32))

    @property
    def name(self) -> str:
        """Engine and model."""
        return f"onnx-cpu:{self._entry.name}"

    def detect(self, frames: Sequence[Planes], layout: FrameLayout) -> list[tuple[Face, ...]]:
        """See `Detector.detect`. A frame with fewer than PEOPLE faces is looked at again, larger.

        A look in vain makes more of them in this batch unlikely to help, one that finds more makes
        it likely (a face too small, or turned away now and then): each kind of frame, by the
        number of faces found at first, has its own patience.
        """
        found = []
        patience = [PATIENCE if self._second_side > self._side else 0] * PEOPLE
        for planes in frames:
            faces = self._look(planes, layout, self._side)
            first = len(faces)
            if first < PEOPLE and patience[first] > 0:
                closer = self._look(planes, layout, self._second_side)
                helped = len(closer) > first
                patience[first] = min(MOST_PATIENCE, patience[first] + (1 if helped else -1))
                faces = closer if helped else faces
            found.append(faces)
        return found

    def free(self) -> None:
        """See `Detector.free`: ONNX Runtime's arena on the CPU keeps no more than one frame's."""

    def _look(self, planes: Planes, layout: FrameLayout, side: int) -> tuple[Face, ...]:
        w, h = picture_size(layout.width, layout.height, side)
        padded = input_size(layout.width, layout.height, side, self._entry.side_multiple)
        picture = self._picture(planes, layout, _Look(w, h, padded))
        candidates = self._candidates(picture)
        best = suppress(candidates, self._entry.nms_threshold)
        return to_faces(best, layout.width / w, layout.height / h, self._entry.sure_score)

    def _picture(self, planes: Planes, layout: FrameLayout, look: _Look) -> Array:
        """The model's input (1, 3, h, w) float32; right and below of the picture is black."""
        small = _shrink(planes, layout, look.w, look.h)
        luma = small[0].astype(np.float32)
        width, height = look.padded
        picture = np.zeros((1, 3, height, width), dtype=np.float32)
        for channel, (y, u, v), offset in zip(picture[0], self._matrix, self._offset, strict=True):
            # not a matrix product: NumPy's runs on all cores, and they wait by spinning
            chroma = cv2.addWeighted(small[1], u, small[2], v, offset, dtype=cv2.CV_32F)
            channel[: look.h, : look.w] = cv2.scaleAdd(luma, y, chroma)
        return picture

    def _candidates(self, picture: Array) -> Candidates:
        try:
            outputs = self._session.run(None, {self._input: picture})
            return self._decode(outputs, 0, picture.shape[3], self._entry.score_threshold)
        except MemoryError as error:
            raise OutOfMemoryError("on the CPU") from error
        except _RUN_ERRORS as error:
            if _OUT_OF_MEMORY in str(error):
                raise OutOfMemoryError("on the CPU") from error
            raise _damaged(self._entry.name, error) from error


def _open(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # several workers share the cores: waiting threads must not burn them
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


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


def _damaged(model: str, error: Exception) -> PermanentError:
    return PermanentError(
        ErrorCode.MODEL_DAMAGED,
        f"the detection model {model} can't be used ({str(error)[:200]}); "
        f"remove its file and run 'dualface models pull {model}'",
    )
