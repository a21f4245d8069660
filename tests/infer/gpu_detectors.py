"""Detectors on a device, and frames there, for tests that run them all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.infer.engines import trt_api
from services.infer.engines.base import Detector
from services.infer.engines.onnx_cuda import OnnxCudaDetector
from services.infer.engines.onnx_session import CPU, CUDA
from services.infer.engines.tensorrt import Options, TensorRtDetector
from services.infer.engines.trt_cache import EngineCache
from shared.errors import EngineError
from shared.faces import Face
from shared.media.layout import FrameLayout, PixelFormat, Planes
from shared.models import ModelEntry
from shared.models.precision import Precision
from shared.storage.directory import DirectoryStore

if TYPE_CHECKING:
    from shared.cuda.device import Device

MIB = 1 << 20

KINDS = ("tensorrt-fp32", "tensorrt-fp16", "onnx-cuda")


def need(kind: str, vendor: str) -> None:
    """Skip the test where the package of a real detector is not there; with REQUIRE_TENSORRT=1, as
    TensorRT comes from no package index, and REQUIRE_GPU=1 for the other, that is an error."""
    if vendor != "gpu":
        return
    try:
        if kind == "onnx-cuda":
            import onnxruntime

            if CUDA not in onnxruntime.get_available_providers():
                raise EngineError("onnxruntime-gpu is not installed")
        else:
            trt_api.load()
    except EngineError as error:
        which = "REQUIRE_GPU" if kind == "onnx-cuda" else "REQUIRE_TENSORRT"
        if os.environ.get(which) == "1":
            raise
        pytest.skip(error.message)


def cache_in(folder: Path) -> EngineCache:
    """An engine cache in a folder, for one process."""
    return EngineCache(DirectoryStore(folder), None, "w")


def tensorrt(
    device: Device,
    entry: ModelEntry,
    path: Path,
    precision: Precision = "fp32",
    *,
    batch: int = 8,
    graphs: bool = True,
) -> TensorRtDetector:
    """A detector whose engines are kept beside the model. On a real GPU, where compiling takes
    long, all tests share them."""
    real = not device.name.startswith("Double")
    store = path.parent.parent / "engines" if real else path.parent / "store"
    options = Options(precision=precision, batch=batch, graphs=graphs)
    return TensorRtDetector(device, entry, path, cache_in(store), options)


def onnx_cuda(
    device: Device, entry: ModelEntry, path: Path, vendor: str, *, batch: int = 8
) -> OnnxCudaDetector:
    """Over the doubles: ONNX Runtime's CPU provider on their memory."""
    if vendor == "gpu":
        return OnnxCudaDetector(device, entry, path, limit_bytes=512 * MIB, batch=batch)
    return OnnxCudaDetector(
        device, entry, path, limit_bytes=512 * MIB, batch=batch, provider=CPU, place="cpu"
    )


def made(
    kind: str, device: Device, entry: ModelEntry, path: Path, vendor: str, *, batch: int = 8
) -> Detector:
    """One of KINDS."""
    if kind == "onnx-cuda":
        return onnx_cuda(device, entry, path, vendor, batch=batch)
    precision: Precision = "fp16" if kind.endswith("fp16") else "fp32"
    return tensorrt(device, entry, path, precision, batch=batch)


def nv12(layout: FrameLayout) -> FrameLayout:
    """The same geometry, as frames lie on a device."""
    return layout.model_copy(update={"format": PixelFormat.NV12})


def uploaded(
    device: Device, frames: Sequence[Planes], layout: FrameLayout
) -> tuple[list[Planes], FrameLayout]:
    """I420 frames as one slot of NV12 on the device."""
    there = nv12(layout)
    slot = device.empty((len(frames) * there.frame_bytes,))
    for index, (luma, u, v) in enumerate(frames):
        pairs = np.stack((u, v), axis=-1).reshape(layout.chroma_height, 2 * layout.chroma_width)
        for plane, target in zip((luma, pairs), there.planes(slot, index), strict=True):
            device.upload(np.ascontiguousarray(plane), target)
    return [there.planes(slot, index) for index in range(len(frames))], there


def unlike(one: Sequence[Face], two: Sequence[Face], *, px: float, score: float) -> str:
    """What is different beyond the tolerances, "" for nothing: the same faces in any order."""
    if len(one) != len(two):
        return f"{len(one)} faces and {len(two)}"
    left = list(two)
    for face in one:
        near = min(left, key=lambda other: _apart(face, other))
        left.remove(near)
        if _apart(face, near) > px or abs(face.score - near.score) > score:
            return f"{face} and {near}"
    return ""


def _apart(one: Face, two: Face) -> float:
    """Largest distance of the boxes' sides, px."""
    sides = (one.x - two.x, one.y - two.y, one.x + one.w - two.x - two.w)
    return max(abs(side) for side in (*sides, one.y + one.h - two.y - two.h))
