"""The renderers, in the order of preference."""

from __future__ import annotations

from collections.abc import Sequence

from services.compose.engines.base import Renderer
from services.compose.engines.opencv import OpenCvRenderer
from services.compose.engines.plain import PlainRenderer
from services.compose.engines.staged import StagedRenderer
from shared.cuda.memory import Memory
from shared.engines import able
from shared.runtime import Runtime


def renderers(runtime: Runtime, memory: Memory) -> Sequence[Renderer]:
    """Of frames in `memory`, best first."""
    host: tuple[Renderer, ...] = (OpenCvRenderer(), PlainRenderer())
    if memory == "host":
        return host
    staging = runtime.device.staging()
    return (
        *able([lambda: _on_gpu(runtime)]),
        *(StagedRenderer(each, staging) for each in host),
    )


def _on_gpu(runtime: Runtime) -> Renderer:
    # Kernels: only where there is a GPU.
    from services.compose.engines.cuda import CudaRenderer

    return CudaRenderer(runtime.device())
