"""How the pixels of one frame lie in memory, so that a slot number is enough to find them."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Plane = npt.NDArray[np.uint8]
"""One plane: shape (rows, columns), dtype uint8, C-contiguous; a view into the arena."""

Planes = tuple[Plane, ...]
"""I420: (Y, U, V), each 2-D. NV12: (Y, UV) with UV of shape (rows, 2 * columns), interleaved."""


class PixelFormat(StrEnum):
    """8-bit 4:2:0 only: what x264, NVENC and NVDEC share."""

    I420 = "i420"
    NV12 = "nv12"


class FrameLayout(BaseModel):
    """Geometry of a tightly packed 8-bit 4:2:0 frame; chroma sides are rounded up for odd sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=1, le=32768, description="luma columns, px")
    height: int = Field(ge=1, le=32768, description="luma rows, px")
    format: PixelFormat = PixelFormat.I420

    @property
    def chroma_width(self) -> int:
        """Columns of one chroma plane, px."""
        return (self.width + 1) // 2

    @property
    def chroma_height(self) -> int:
        """Rows of one chroma plane, px."""
        return (self.height + 1) // 2

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame, planes back to back."""
        return self.width * self.height + 2 * self.chroma_width * self.chroma_height

    def planes(self, buffer: Plane, index: int = 0) -> Planes:
        """Views of frame `index` in `buffer`, a 1-D uint8 array that holds frames back to back.

        Raises ValueError when the frame does not lie wholly inside `buffer`.
        """
        start = index * self.frame_bytes
        if index < 0 or start + self.frame_bytes > buffer.size:
            raise ValueError(
                f"frame {index} of {self.frame_bytes} bytes exceeds {buffer.size} bytes"
            )
        luma_end = start + self.width * self.height
        luma = buffer[start:luma_end].reshape(self.height, self.width)
        if self.format is PixelFormat.NV12:
            chroma = buffer[luma_end : start + self.frame_bytes]
            return luma, chroma.reshape(self.chroma_height, 2 * self.chroma_width)
        size = self.chroma_width * self.chroma_height
        shape = (self.chroma_height, self.chroma_width)
        u = buffer[luma_end : luma_end + size].reshape(shape)
        v = buffer[luma_end + size : luma_end + 2 * size].reshape(shape)
        return luma, u, v
