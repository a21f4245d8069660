"""The encoders, in the order of preference."""

from __future__ import annotations

from collections.abc import Sequence

from services.encode.engines.base import ChunkEncoder
from services.encode.engines.pyav import PyAvEncoder
from shared.cuda.memory import Memory
from shared.engines import able
from shared.runtime import Runtime


def encoders(runtime: Runtime, memory: Memory) -> Sequence[ChunkEncoder]:
    """Of frames in `memory`, best first."""
    threads = runtime.settings.encode_threads
    software = PyAvEncoder(threads), PyAvEncoder(threads, vector_code=False)
    if memory == "host":
        return software
    return (*_of_gpu(runtime), *software)


def _of_gpu(runtime: Runtime) -> Sequence[ChunkEncoder]:
    # The vendor's libraries: only where there is a GPU.
    from services.encode.engines.nvenc import NvencEncoder
    from services.encode.engines.pyav_nvenc import PyAvNvencEncoder

    preset = runtime.settings.encode_preset_gpu
    return able(
        [
            lambda: NvencEncoder(runtime.device(), preset),
            lambda: PyAvNvencEncoder(runtime.device(), preset),
        ]
    )
