"""The file of one chunk: NUT with one video stream, and a note of what must be in it.

NUT takes any time base and keeps parameter sets in its header, but can't store times below zero
and may refine the time base. So a chunk counts from its own first frame, and the note, a line of
metadata in the header, has the first pts, the number of frames and a checksum of their payloads:
a chunk that was cut or changed on its way is known as such before it is joined.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from pydantic import ValidationError

from services.encode.times import decode_times
from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.jobs import Model
from shared.media.layout import FrameLayout, PixelFormat, Plane

NOTE = "dualface"
FORMAT = "nut"
NOTE_WITHIN_BYTES = 64 << 10
"""The header of a chunk is some hundred bytes long."""
_HEADER_SHA256 = re.compile(rb'"header_sha256":"([0-9a-f]{64})"')
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Note(Model):
    """What a chunk says of itself. `first_pts` and `last_pts` count in `time_base`.

    `header_sha256` is of the parameter sets; equal in all chunks of one encoder, settings and
    device, and in most of a job.
    """

    v: int = 1
    frames: int
    first_pts: int
    last_pts: int
    time_base: tuple[int, int]
    header_sha256: str
    crc32: int


@dataclass(frozen=True)
class Chunk:
    """A chunk in memory: packets in decode order, `pts[i]` of the i-th in ticks of its time base.

    `reorder_depth` is how many frames a decoder holds back, as the parameter sets in `header` say.
    """

    note: Note
    packets: list[Packet[VideoStream]]
    pts: list[int]
    reorder_depth: int
    codec: str
    size: tuple[int, int]
    header: bytes


def write_chunk(
    path: Path,
    tick: Fraction,
    make: Callable[[OutputContainer], tuple[VideoStream, list[Packet[VideoStream]]]],
) -> Note:
    """Write what `make` returns as a chunk at `path`, replacing it in one step.

    `make` adds the stream to the container it gets and returns it with all its packets, pts in
    units of `tick` seconds. Nothing is written before it returns, so the packets of one batch are
    held in memory: encoded, far smaller than the batch itself.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # bitexact: no version string, the same frames give the same bytes
        options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
        with av.open(f"file:{part}", "w", format=FORMAT, container_options=options) as out:
            stream, packets = make(out)
            note = _note(stream, packets, tick)
            out.metadata[NOTE] = note.model_dump_json()
            # Encoders derive decode times from frames they saw and those they expect; x265's for
            # the first frames depend on its threads. These depend on the frames alone.
            times = decode_times([packet.pts or 0 for packet in packets])
            for packet, dts in zip(packets, times, strict=True):
                packet.pts = (packet.pts or 0) - note.first_pts
                packet.dts = dts - note.first_pts
                packet.stream = stream
                out.mux(packet)
        os.replace(part, path)
    except (OSError, av.FFmpegError) as error:
        raise write_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)
    return note


def _note(stream: VideoStream, packets: Sequence[Packet[VideoStream]], tick: Fraction) -> Note:
    times = [packet.pts for packet in packets if packet.pts is not None]
    return Note(
        frames=len(packets),
        first_pts=min(times),
        last_pts=max(times),
        time_base=(tick.numerator, tick.denominator),
        header_sha256=hashlib.sha256(stream.codec_context.extradata or b"").hexdigest(),
        crc32=_checksum(packets),
    )


def _checksum(packets: Sequence[Packet[VideoStream]]) -> int:
    crc = 0
    for packet in packets:
        crc = zlib.crc32(packet, crc)
    return crc


def read_chunk(path: Path, index: int) -> Chunk:
    """Read chunk number `index` of its job.

    Raises TemporaryError STAGE_FAILED when it is missing, cut or changed: reading it again from
    the store may help, and the number says which batch to encode again if not.
    """
    try:
        with av.open(f"file:{path}", format=FORMAT) as source:
            note = Note.model_validate_json(source.metadata.get(NOTE, ""))
            stream = source.streams.video[0]
            packets = [packet for packet in source.demux(stream) if packet.size]
            pts = [_global_pts(packet, note) for packet in packets]
            context = stream.codec_context
            depth, codec = context.reorder_depth, context.codec.canonical_name
            size, header = (context.width, context.height), bytes(context.extradata or b"")
    except (OSError, av.FFmpegError, ValidationError, IndexError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "can't be read"
        raise _damaged(index, path, reason) from error
    if len(packets) != note.frames:
        raise _damaged(index, path, f"has {len(packets)} of its {note.frames} frames")
    if _checksum(packets) != note.crc32:
        raise _damaged(index, path, "has changed since it was written")
    return Chunk(note, packets, pts, depth, codec, size, header)


def peek_header(path: Path) -> str:
    """`header_sha256` of a chunk, from its first bytes, without opening it; "" when it isn't there:
    `read_chunk` will say why."""
    try:
        with path.open("rb") as file:
            beginning = file.read(NOTE_WITHIN_BYTES)
    except OSError:
        return ""
    found = _HEADER_SHA256.search(beginning)
    return found.group(1).decode() if found else ""


def picture_of(path: Path, layout: FrameLayout, *, last: bool) -> Plane:
    """The first or last frame (by time) of a chunk in the format of `layout`, `layout.frame_bytes`
    long.

    Raises TemporaryError as `read_chunk`.
    """
    try:
        with av.open(f"file:{path}", format=FORMAT) as source:
            frames = source.decode(video=0)  # in the order of time
            shown = deque(frames, maxlen=1).pop() if last else next(frames)
            format_ = "nv12" if layout.format is PixelFormat.NV12 else "yuv420p"
            picture = shown.to_ndarray(format=format_)
    except (OSError, av.FFmpegError, ValueError, IndexError, StopIteration) as error:
        raise _damaged(0, path, "can't be read") from error
    return np.ascontiguousarray(picture, dtype=np.uint8).reshape(-1)[: layout.frame_bytes]


def open_template(stack: ExitStack, path: Path) -> VideoStream:
    """The stream of a chunk that `read_chunk` has accepted; valid until `stack` closes."""
    return stack.enter_context(av.open(f"file:{path}", format=FORMAT)).streams.video[0]


def _global_pts(packet: Packet[VideoStream], note: Note) -> int:
    if packet.pts is None:
        raise ValueError("a packet without time")
    local = packet.pts * packet.time_base / Fraction(*note.time_base)
    if local.denominator != 1:
        raise ValueError(f"{packet.pts} is no whole tick")
    return local.numerator + note.first_pts


def _damaged(index: int, path: Path, reason: str) -> TemporaryError:
    return TemporaryError(
        ErrorCode.STAGE_FAILED,
        f"Chunk {index} ({path.name}) {reason}; fetch it again, or encode its batch again.",
    )


def write_error(error: OSError | av.FFmpegError, path: Path) -> PermanentError | TemporaryError:
    """The error of the house for one met while writing `path`."""
    number = error.errno or 0
    if number in NO_SPACE:
        return TemporaryError(
            ErrorCode.NO_SPACE,
            f"There is no space left in {path.parent} to write {path.name}; free some.",
            10.0,
        )
    reason = os.strerror(number).lower() if number > 0 else str(error)
    return PermanentError(
        ErrorCode.OUTPUT_UNWRITABLE,
        f"Can't write {path.name} in {path.parent}: {reason}; choose a folder that exists and"
        " may be written to.",
    )
