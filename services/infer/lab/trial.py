"""Does a model work? `python -m services.infer.lab.trial`, with a `TrialRequest`.

In a process of its own because the file may be anybody's: what it does to ONNX Runtime ends nothing
else.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from pydantic import ValidationError

from services.infer.engines.onnx_cpu import OnnxCpuDetector, fixed_input, use_one_thread
from services.infer.lab.answering import answer
from shared.errors import ErrorCode, PermanentError
from shared.media.layout import FrameLayout
from shared.models import ModelEntry
from shared.models.lab import TrialAnswer, TrialRequest

LAYOUT = FrameLayout(width=1281, height=719)
"""Of the frames; odd, as some are."""

_BLACK = 16
"""Luma, BT.601 limited range."""


def try_out(request: TrialRequest) -> TrialAnswer:
    """Raises PermanentError MODEL_DAMAGED for a model that can't be used as its entry says."""
    use_one_thread()
    entry = _sized(request)
    detector = OnnxCpuDetector(entry, request.path, threads=request.threads)
    noise = np.random.default_rng(1).integers(0, 256, LAYOUT.frame_bytes, dtype=np.uint8)
    detector.detect([LAYOUT.planes(noise)], LAYOUT)
    planes = LAYOUT.planes(np.full(LAYOUT.frame_bytes, 128, dtype=np.uint8))
    planes[0][:] = _BLACK
    began = time.perf_counter()
    (faces,) = detector.detect([planes], LAYOUT)
    taken_ms = 1000 * (time.perf_counter() - began)
    return TrialAnswer(entry=entry, ms=taken_ms, seen=len(faces))


def _sized(request: TrialRequest) -> ModelEntry:
    """The entry with the only size that the file takes, if it says one."""
    entry, size = request.entry, fixed_input(request.path)
    if size is None or size == entry.fixed_input:
        return entry
    text = f"{size[0]}x{size[1]}"
    if request.size_asked and entry.fixed_input is not None:
        width, height = entry.fixed_input
        raise PermanentError(
            ErrorCode.MODEL_DAMAGED,
            f"the model takes {text} only, not {width}x{height}; leave the option away",
        )
    try:
        return ModelEntry.model_validate(entry.model_dump() | {"fixed_input": size})
    except ValidationError as error:
        raise PermanentError(
            ErrorCode.MODEL_DAMAGED,
            f"the model takes {text} only, which can't be used ({error.errors()[0]['msg']})",
        ) from error


if __name__ == "__main__":
    sys.exit(answer(TrialRequest, try_out))
