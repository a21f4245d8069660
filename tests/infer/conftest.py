"""Models and clips for the detection tests."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from services.infer.engines.onnx_cpu import OnnxCpuDetector
from shared.errors import ErrorCode, PermanentError
from shared.media.layout import FrameLayout, Planes
from shared.models import entry_of, pull
from tests.conftest import MODELS

Clip = tuple[list[Planes], FrameLayout]


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The folder where a person's models are, so that tests fetch one at most once."""
    return Path.home() / ".cache" / "dualface" / "models"


@pytest.fixture(scope="session")
def detector_of(model_cache: Path) -> Callable[[str], OnnxCpuDetector]:
    """By model name; skips the test where the model can't be had."""

    def make(name: str) -> OnnxCpuDetector:
        try:
            path = pull(name, model_cache, [MODELS])
        except PermanentError as error:
            if error.code is not ErrorCode.MODEL_MISSING:
                raise
            pytest.skip(f"the model {name} can't be had: {error}")
        return OnnxCpuDetector(entry_of(name), path)

    return make


def read_clip(path: Path, every: int = 1, stop: int | None = None) -> Clip:
    """Every `every`-th frame of a clip before frame `stop`, as I420 planes."""
    frames: list[Planes] = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(islice(container.decode(video=0), stop)):
            if index % every == 0:
                packed = frame.to_ndarray(format="yuv420p").reshape(-1)
                layout = FrameLayout(width=frame.width, height=frame.height)
                frames.append(layout.planes(packed.astype(np.uint8, copy=False)))
    return frames, layout
