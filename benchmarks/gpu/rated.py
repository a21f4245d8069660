"""What NVIDIA says an NVDEC engine decodes.

"NVDEC Application Note" of the Video Codec SDK 13.0, section 3, table "NVDEC Decoding Performance"
(docs.nvidia.com/video-technologies/video-codec-sdk/13.0/nvdec-application-note): frames/s of one
engine, 1920x1080 4:2:0, at the highest video clock of the GPU it was measured on, in MHz; "scales
(almost) linearly" with the clock. It says of GA100 and Hopper that they have Turing's engines. How
many engines a GPU has it does not say; its driver does. One decoder never uses more than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import ModuleType

from shared.gpu.nvml import Handle, Nvml, text

NVML_CLOCK_VIDEO = 3


@dataclass(frozen=True)
class Rating:
    """Frames/s of one engine for `codec`; `how` it was come by."""

    fps: float
    how: str

    def of(self, decoders: int, engines: int | None) -> float:
        """Frames/s of so many decoders at a time. `engines` of the GPU; None: nobody tells, one."""
        return self.fps * min(decoders, engines or 1)


@dataclass(frozen=True)
class _Generation:
    name: str
    mhz: int
    fps: dict[str, int]


_PASCAL = _Generation("Pascal", 1544, {"h264": 694, "hevc": 810})
_TURING = _Generation("Turing", 1860, {"h264": 771, "hevc": 1316})
_AMPERE = _Generation("Ampere", 1665, {"h264": 748, "hevc": 1415})
_ADA = _Generation("Ada", 2160, {"h264": 903, "hevc": 1641})
_BLACKWELL = _Generation("Blackwell", 2362, {"h264": 2172, "hevc": 1872})

_BY_COMPUTE = {
    (6, 0): _PASCAL,
    (6, 1): _PASCAL,
    (7, 5): _TURING,
    (8, 0): _TURING,
    (8, 6): _AMPERE,
    (8, 9): _ADA,
    (9, 0): _TURING,
    (10, 0): _BLACKWELL,
    (10, 3): _BLACKWELL,
    (12, 0): _BLACKWELL,
}


def rating(codec: str, compute: tuple[int, int], uuid: str) -> Rating | None:
    """Of the GPU `uuid`, scaled to its highest video clock where NVML tells it; None: unknown."""
    generation = _BY_COMPUTE.get(compute)
    if generation is None or codec not in generation.fps:
        return None
    fps, clock = generation.fps[codec], video_mhz(uuid)
    said = f"{generation.name} engine, {fps} frames/s at {generation.mhz} MHz"
    if clock is None:
        return Rating(fps, f"{said}; this GPU's video clock is unknown, so not scaled")
    return Rating(fps * clock / generation.mhz, f"{said}, scaled to this GPU's {clock} MHz")


def video_mhz(uuid: str) -> int | None:
    """Highest video clock of the GPU, or of the only one there is (a MIG slice has none)."""
    nvml = Nvml()
    try:
        handles = [handle for _, handle in nvml.handles()]
        mine = [each for each in handles if nvml.told(partial(_uuid, each)) == uuid]
        chosen = mine or (handles if len(handles) == 1 else [])
        if not chosen:
            return None
        return nvml.told(lambda m: int(m.nvmlDeviceGetMaxClockInfo(chosen[0], NVML_CLOCK_VIDEO)))
    finally:
        nvml.close()


def _uuid(handle: Handle, nvml: ModuleType) -> str:
    return text(nvml.nvmlDeviceGetUUID(handle))
