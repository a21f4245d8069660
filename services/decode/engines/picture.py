"""From a decoded frame of any pixel format and size to upright I420 or NV12 planes."""

from __future__ import annotations

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from shared.jobs import SourceInfo
from shared.media.layout import Plane, Planes

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}

# ISO/IEC 23091-2 matrix code points to swscale's names for the same coefficients.
_COLORSPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
_NEUTRAL = 128
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


class PictureWriter:
    """Writes frames of one source; keeps swscale's context between frames."""

    def __init__(self, source: SourceInfo) -> None:
        self._turn = _TURNS.get(source.rotation)
        turned = source.rotation in (90, 270)
        self._size = (source.height, source.width) if turned else (source.width, source.height)
        self._color = source.color
        self._reformatter = VideoReformatter()

    def write(self, frame: VideoFrame, planes: Planes) -> None:
        """Fill `planes` (upright size; three: I420, two: NV12) with `frame`. Both get the same
        samples."""
        if frame.format.name.startswith("gray"):
            # swscale takes every grey for full range, whatever its tags say.
            frame = self._scaled(frame, "gray")
            for target in planes[1:]:
                target[:] = _NEUTRAL
        elif not self._fits(frame, interleaved=len(planes) == 2):
            frame = self._converted(frame)
        if len(planes) == 2 and len(frame.planes) == 3:
            self._interleave(frame, planes)
            return
        pairs = frame.format.name == "nv12"
        for index, (plane, target) in enumerate(zip(frame.planes, planes, strict=False)):
            rows = _rows(plane, 1 + (pairs and index == 1))
            if self._turn is None:
                np.copyto(target, rows)
            elif rows.shape[1] > plane.width:
                _turned_pairs(rows, self._turn, target)
            else:
                cv2.rotate(rows, self._turn, dst=target)

    def _interleave(self, frame: VideoFrame, planes: Planes) -> None:
        """I420 to NV12: the first plane as it is, the others pairwise."""
        luma, *pair = (_rows(plane) for plane in frame.planes)
        if self._turn is None:
            np.copyto(planes[0], luma)
        else:
            cv2.rotate(luma, self._turn, dst=planes[0])
            pair = [np.asarray(cv2.rotate(plane, self._turn), np.uint8) for plane in pair]
        rows, columns = planes[1].shape
        cv2.merge(pair, dst=planes[1].reshape(rows, columns // 2, 2))

    def _fits(self, frame: VideoFrame, *, interleaved: bool = False) -> bool:
        """True when the frame's planes can be copied as they are, or but for being interleaved."""
        name = frame.format.name
        full = name == "yuvj420p" or frame.color_range == ColorRange.JPEG
        # An untagged frame is what the source as a whole was taken to be.
        known = name == "yuvj420p" or frame.color_range != ColorRange.UNSPECIFIED
        return (
            (name in ("yuv420p", "yuvj420p") or (interleaved and name == "nv12"))
            and (frame.width, frame.height) == self._size
            and (not known or full == self._color.full_range)
        )

    def _converted(self, frame: VideoFrame) -> VideoFrame:
        wanted = ColorRange.JPEG if self._color.full_range else ColorRange.MPEG
        source_range, target_matrix = wanted, None
        if frame.format.is_rgb or frame.format.has_palette:
            source_range = ColorRange.JPEG
            target_matrix = _COLORSPACES.get(self._color.matrix, Colorspace.ITU601)
        elif frame.format.name.startswith("yuvj"):
            source_range = ColorRange.JPEG
        elif frame.color_range != ColorRange.UNSPECIFIED:
            source_range = ColorRange(frame.color_range)
        return self._scaled(frame, "yuv420p", target_matrix, source_range, wanted)

    def _scaled(
        self,
        frame: VideoFrame,
        pixel_format: str,
        matrix: int | None = None,
        source_range: int | None = None,
        target_range: int | None = None,
    ) -> VideoFrame:
        """swscale's work; None keeps what the frame says."""
        return self._reformatter.reformat(
            frame,
            width=self._size[0],
            height=self._size[1],
            format=pixel_format,
            dst_colorspace=matrix,
            src_color_range=source_range,
            dst_color_range=target_range,
            interpolation=_SCALING,
            threads=1,
        )


def _turned_pairs(rows: Plane, turn: int, target: Plane) -> None:
    """Turn a plane of interleaved U and V, each pair as one."""
    pairs = np.ascontiguousarray(rows).reshape(rows.shape[0], -1, 2)
    np.copyto(target, cv2.rotate(pairs, turn).reshape(target.shape))


def _rows(plane: VideoPlane, samples: int = 1) -> Plane:
    """View of a plane of so many samples per pixel without its padding, top row first even where it
    is stored bottom-up."""
    stride = abs(plane.line_size)
    view: Plane = np.frombuffer(memoryview(plane), np.uint8, count=stride * plane.height)
    rows: Plane = view.reshape(plane.height, stride)[:, : plane.width * samples]
    return rows[::-1] if plane.line_size < 0 else rows
