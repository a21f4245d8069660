"""The decoders, in the order of preference."""

from __future__ import annotations

from collections.abc import Sequence

from services.decode.engines.base import SegmentDecoder
from services.decode.engines.pyav import PyAvDecoder
from shared.cuda.memory import Memory
from shared.engines import able
from shared.runtime import Runtime


class OneThreadDecoder(PyAvDecoder):
    """FFmpeg without its threads, where some of its crashes and hangs live."""

    name = "pyav-1thread"

    def __init__(self) -> None:
        super().__init__(threads=1)


def decoders(runtime: Runtime, memory: Memory) -> Sequence[SegmentDecoder]:
    """For slots in `memory`, best first."""
    software = (PyAvDecoder(runtime.settings.decode_threads), OneThreadDecoder())
    if memory == "host":
        return software
    return (*_of_gpu(runtime), *software)


def _of_gpu(runtime: Runtime) -> Sequence[SegmentDecoder]:
    # The vendor's libraries: only where there is a GPU.
    from services.decode.engines.nvdec import NvdecDecoder
    from services.decode.engines.pyav_cuda import PyAvCudaDecoder

    made = (lambda: NvdecDecoder(runtime.device()), lambda: PyAvCudaDecoder(runtime.device()))
    return able(made)
