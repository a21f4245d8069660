"""What a source is, measured once: the only module that opens media from outside.

FFmpeg may open the one file it is given and nothing that the file points to: only the `file`
protocol, only containers that hold their media themselves (no playlists, no scripts, no image
sequences), and MP4 data references stay off, as they are by default.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from shared.errors import ErrorCode, PermanentError
from shared.jobs import ColorTags, Ratio, SoundInfo, SourceInfo
from shared.media.bounds import memory_at_most, plain_time, too_large
from shared.media.sniff import explain_unreadable, refuse_obvious
from shared.media.sound import add_copied_sound
from shared.settings import SourceLimits

Container = Literal["mp4", "mov"]
AnyPacket: TypeAlias = "Packet[Stream]"

# Names of FFmpeg demuxers. Sound-only ones are here so that such a file gets the right message.
_FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "mpegts", "mpeg", "avi", "flv"),
    *("gif", "ogg", "asf", "nut", "ivf", "yuv4mpegpipe", "h264", "hevc", "vvc", "m4v", "mpegvideo"),
    *("obu", "av1", "mp3", "wav", "flac", "aac"),
)

# Frames decoded to learn the rotation and to check the order of times; more would cost time.
_TRIAL_FRAMES = 48
_TRIAL_PACKETS = 240
_TRIAL_SOUNDS = 4
_TRIAL_BYTES = 32 << 20
# Of any stream: packets may be empty, and then no number of bytes is ever reached.
_TRIAL_READS = 50_000

# For reading headers: an index of 12 million frames has 400 MB.
_HEADER_MIB = 1024

# FFmpeg fills in missing pts from the next dts, which is right only where B-frames aren't
# themselves referenced: elsewhere a missing time has to stay missing, so that it is seen.
_FILL_IN_TIMES = 1  # AVFMT_FLAG_GENPTS; PyAV sets it on every input
_FILLED_IN = frozenset({"mpeg1video", "mpeg2video", "mpeg4"})

# Containers whose duration counts from 0 and not from their first frame.
_END_AS_DURATION = frozenset({"matroska,webm", "nut"})

_RGB_MATRIX = 0
_BT709, _SMPTE170M = 1, 6
_SD_LINES = 576
# Of sound: below it a small file lasts days, and is made a large one where it must be AAC.
_LOWEST_HZ = 1000
_SLOWEST, _FASTEST = Fraction(1, 60), 1000
_RANGE_UNKNOWN, _RANGE_FULL = 0, 2
_UNSPECIFIED = 2


def open_source(
    path: Path, limits: SourceLimits | None = None, name: str | None = None
) -> InputContainer:
    """Open a file from outside, confined to itself; the caller closes it.

    `limits` default to those of the environment. `name`: what sentences call the file, as in
    `shared.media.sniff.shown_name`. Raises PermanentError when the file is missing, empty, too
    large or no video container.
    """
    limits = limits or SourceLimits.load()
    refuse_obvious(path, limits.size_bytes, name)
    source = _opened(path, limits, name)
    try:
        _check_streams(source, limits)
        _check_packets(source, path.stat().st_size, limits)
    except PermanentError:
        source.close()
        raise
    if not any(getattr(s.codec_context, "name", "") in _FILLED_IN for s in source.streams.video):
        source.flags &= ~_FILL_IN_TIMES
    return source


def _opened(path: Path, limits: SourceLimits, name: str | None) -> InputContainer:
    memory_mib = min(limits.memory_mib, _HEADER_MIB)
    try:
        with memory_at_most(memory_mib):
            return av.open(
                f"file:{path}",
                "r",
                # Codec options: what find_stream_info may decode is bounded before any allocation.
                options={"max_pixels": str(limits.pixels), "threads": "1"},
                container_options={
                    "protocol_whitelist": "file",
                    "format_whitelist": ",".join(_FORMATS),
                    "max_streams": str(limits.streams + 1),
                },
                metadata_errors="replace",
                timeout=limits.read_s,
            )
    except av.error.ExitError as error:
        raise slow_reading(limits) from error
    except (av.error.FFmpegError, ValueError, UnicodeError) as error:
        raise explain_unreadable(path, error, name) from error
    except PermanentError as error:
        # What FFmpeg says where a stream too many can't be made, too.
        raise too_large(
            f"The file asks for more than the {limits.streams} streams or, with its header, more "
            f"than the {memory_mib} MiB of memory",
            "streams, DUALFACE_SOURCE_MAX_MEMORY_MIB",
            "copy only the picture and sound you need into a new file",
        ) from error


def _check_streams(source: InputContainer, limits: SourceLimits) -> None:
    if len(source.streams) > limits.streams:
        raise too_large(
            f"The file has {len(source.streams)} streams, more than the {limits.streams}",
            "streams",
            "copy only the picture and sound you need into a new file",
        )


def _check_packets(source: InputContainer, size_bytes: int, limits: SourceLimits) -> None:
    """The sizes in the container's index, where it has one: a packet is allocated as it says.

    Packets are no larger than their file, so that small files need no look.
    """
    if size_bytes <= limits.packet_bytes:
        return
    for stream in source.streams:
        largest = max((entry.size for entry in stream.index_entries), default=0)
        if largest > limits.packet_bytes:
            raise large_packet(largest, limits)


def large_packet(size_bytes: int, limits: SourceLimits) -> PermanentError:
    """The error for a packet beyond the limit."""
    return too_large(
        f"One packet of the file has {size_bytes} bytes, more than the {limits.packet_bytes}",
        "packet_bytes",
        "convert it to H.264 first",
    )


def slow_reading(limits: SourceLimits) -> PermanentError:
    """The error for a demuxer that finds nothing in the time it has."""
    return PermanentError(
        ErrorCode.SOURCE_UNREADABLE,
        f"Nothing could be read from the file within the {limits.read_s:g} s allowed "
        "(DUALFACE_SOURCE_MAX_READ_S): it is damaged, or its disk too slow.",
    )


def many_frames(count: int, limits: SourceLimits) -> PermanentError:
    """The error for more frames than the limit."""
    return too_large(
        f"The video has {count} frames or more, above the {limits.frames}",
        "frames",
        "cut it into parts",
    )


def long_video(seconds: float, limits: SourceLimits) -> PermanentError:
    """The error for a longer video than the limit."""
    return too_large(
        f"The video lasts {seconds:.0f} s, more than the {limits.duration_s:.0f} s",
        "duration_s",
        "cut it into parts, or repair its times if it is shorter",
    )


def probe(
    path: Path,
    container: Container = "mp4",
    limits: SourceLimits | None = None,
    name: str | None = None,
) -> SourceInfo:
    """Measure the source at `path`; `container` is the result's, for which sounds can be copied.

    Reads the headers and the first packets and decodes at most 48 frames. Raises PermanentError
    when there is no picture to work with or it exceeds `limits` (default: the environment's).
    `name`: as in `open_source`.
    """
    limits = limits or SourceLimits.load()
    with open_source(path, limits, name) as source, memory_at_most(limits.memory_mib):
        stream = choose_video(source)
        _check_size(stream.codec_context.width, stream.codec_context.height, limits)
        if stream.frames > limits.frames:
            raise many_frames(stream.frames, limits)
        start = _read_start(source, stream, limits)
        length = _duration_s(source, stream, start)
        if length is not None and length > limits.duration_s:
            raise long_video(length, limits)
        _check_encryption(stream, start)
        frames = _decode_start(stream, start, limits)
        first = frames[0]
        _check_size(first.width, first.height, limits)
        untimed = _times_unusable(start, frames)
        return SourceInfo(
            format=source.format.name,
            codec=stream.codec_context.codec.canonical_name,
            stream=stream.index,
            **_geometry(stream, first),
            pixel_format=first.format.name,
            time_base=_ratio(stream.time_base or Fraction(1, 90000)),
            frame_rate=_ratio(_frame_rate(stream, start, untimed)),
            generated_times=untimed,
            frames_estimate=_frames_estimate(stream, length),
            duration_s=length,
            color=_color(first),
            sounds=tuple(_sounds(source, start, container, limits)),
            size_bytes=path.stat().st_size,
        )


def choose_video(source: InputContainer) -> VideoStream:
    """The stream to show: no cover art; marked as default first, then the largest picture.

    Raises PermanentError when there is none, or none with a known codec.
    """
    pictures = [s for s in source.streams.video if not _is_cover(s)]
    if not pictures:
        raise PermanentError(
            ErrorCode.NO_VIDEO_STREAM,
            "The file has sound but no moving picture: choose a video file."
            if source.streams.audio
            else "The file has no moving picture: choose a video file.",
        )
    # Streams without a decoder have no codec context, whatever the stubs say.
    playable = [s for s in pictures if getattr(s, "codec_context", None) is not None]
    if not playable:
        raise PermanentError(
            ErrorCode.UNSUPPORTED_CODEC,
            "The picture is in a codec that can't be decoded here: convert it to H.264 first.",
        )
    return max(playable, key=_preference)


def _is_cover(stream: VideoStream) -> bool:
    cover = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return bool(stream.disposition & cover)


def _preference(stream: VideoStream) -> tuple[int, bool, int]:
    area = stream.codec_context.width * stream.codec_context.height
    return area, bool(stream.disposition & Disposition.default), -stream.index


def _check_size(width: int, height: int, limits: SourceLimits) -> None:
    if width * height > limits.pixels:
        raise too_large(
            f"The picture is {width}x{height}, more than the {limits.pixels} pixels",
            "pixels",
            "scale it down first",
        )
    if max(width, height) > limits.side_px:
        raise too_large(
            f"The picture is {width}x{height}, its longer side above the {limits.side_px} px",
            "side_px",
            "scale it down first",
        )


@dataclass
class _Start:
    """First packets of the video stream, and the first few of every sound stream."""

    video: list[AnyPacket] = field(default_factory=list)
    sounds: dict[int, list[AnyPacket]] = field(default_factory=dict)

    def add(self, packet: AnyPacket, stream: VideoStream) -> None:
        """Keep `packet` if it is one of the first; `stream` is the picture's."""
        if packet.stream_index == stream.index:
            if len(self.video) < _TRIAL_PACKETS:
                self.video.append(packet)
        elif len(self.sounds.get(packet.stream_index, ())) < _TRIAL_SOUNDS:
            self.sounds.setdefault(packet.stream_index, []).append(packet)


def _read_start(source: InputContainer, stream: VideoStream, limits: SourceLimits) -> _Start:
    start = _Start(sounds={s.index: [] for s in source.streams.audio})
    read_bytes = 0
    try:
        for reads, packet in enumerate(source.demux()):
            read_bytes += packet.size
            if packet.size:
                start.add(packet, stream)
            enough = len(start.video) >= _TRIAL_FRAMES + 16 and all(start.sounds.values())
            if enough or read_bytes > _TRIAL_BYTES or reads > _TRIAL_READS:
                break
    except MemoryError:
        raise
    except av.error.ExitError as error:
        raise slow_reading(limits) from error
    except (av.error.FFmpegError, IndexError) as error:
        # IndexError: PyAV at the end of a file in which streams appeared that it doesn't know.
        if not start.video:
            raise _damaged() from error
    if not start.video:
        raise _damaged()
    return start


def _damaged() -> PermanentError:
    sentence = "No frame of the video can be decoded: the file is damaged, get it again."
    return PermanentError(ErrorCode.TOO_DAMAGED, sentence)


def _check_encryption(stream: VideoStream, start: _Start) -> None:
    protected = stream.codec_context.codec_tag in ("encv", "drmi") or any(
        packet.has_sidedata("encryption_info") for packet in start.video[:8]
    )
    if protected:
        sentence = "The video is encrypted (DRM): only unprotected files can be processed."
        raise PermanentError(ErrorCode.ENCRYPTED, sentence)


def _decode_start(stream: VideoStream, start: _Start, limits: SourceLimits) -> list[VideoFrame]:
    """At least one frame; as many as the order of times needs where B-frames are possible."""
    context = stream.codec_context
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.pixels)}
    times = [packet.pts for packet in start.video if packet.pts is not None]
    # With B-frames the times of showing go back and forth in file order; if these don't, they may
    # be those of decoding, written by a faulty muxer.
    suspicious = context.has_b_frames and times == sorted(times)
    wanted = _TRIAL_FRAMES if suspicious else 1
    frames: list[VideoFrame] = []
    for packet in [*start.video, None]:
        try:
            frames += context.decode(packet)
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            continue
        if len(frames) >= wanted:
            break
    if not frames and not context.width:
        # FFmpeg clears a size beyond max_pixels, so that it can't be named.
        raise too_large(
            f"The size of the picture is missing or larger than the {limits.pixels} pixels",
            "pixels",
            "scale it down first",
        )
    if not frames:
        raise _damaged()
    return frames


def _times_unusable(start: _Start, frames: list[VideoFrame]) -> bool:
    """True when packets lack times, or the times are those of decoding and not of showing."""
    if any(plain_time(packet.pts) is None for packet in start.video):
        return True
    times = [frame.pts for frame in frames if frame.pts is not None]
    return any(later <= earlier for earlier, later in pairwise(times))


def _geometry(stream: VideoStream, frame: VideoFrame) -> dict[str, object]:
    rotation = _rotation(frame)
    aspect = _sample_aspect(stream)
    width, height = frame.width, frame.height
    if rotation in (90, 270):
        width, height, aspect = height, width, 1 / aspect
    return {
        "width": width,
        "height": height,
        "rotation": rotation,
        "sample_aspect": _ratio(aspect),
    }


def _rotation(frame: VideoFrame) -> int:
    """Degrees clockwise to upright. The display matrix gives the counterclockwise turn."""
    turn = frame.rotation
    # A matrix of zeros turns by no number, which becomes one far outside of a circle.
    return round(-turn / 90) % 4 * 90 if -360 <= turn <= 360 else 0


def _sample_aspect(stream: VideoStream) -> Fraction:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    # Beyond this it is a wrong header, not a lens.
    return aspect if Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def _color(frame: VideoFrame) -> ColorTags:
    """Tags of the decoded 4:2:0 picture; RGB sources become BT.601 or BT.709 limited, by height."""
    name = frame.format.name
    if frame.format.is_rgb or frame.format.has_palette or frame.colorspace == _RGB_MATRIX:
        matrix = _SMPTE170M if frame.height <= _SD_LINES else _BT709
        full = False
    else:
        matrix = frame.colorspace
        untagged_grey = name.startswith("gray") and frame.color_range == _RANGE_UNKNOWN
        full = name.startswith("yuvj") or untagged_grey or frame.color_range == _RANGE_FULL
    return ColorTags(
        primaries=_code_point(frame.color_primaries),
        transfer=_code_point(frame.color_trc),
        matrix=_code_point(matrix),
        full_range=full,
    )


def _code_point(value: int) -> int:
    """0 and 3 are reserved, above 22 nothing is assigned: treat as unspecified."""
    return value if value not in (0, 3) and 0 < value <= 22 else _UNSPECIFIED


def _frame_rate(stream: VideoStream, start: _Start, untimed: bool) -> Fraction:
    """Average rate; of a stream without times, what the bitstream says by its frame durations.

    There at most one frame per tick, as times are made of it.
    """
    durations = {p.duration for p in start.video if p.duration}
    tick = stream.time_base
    candidates: list[Fraction | None] = [stream.average_rate, stream.base_rate]
    if start.video[0].pts is None and len(durations) == 1 and tick:
        candidates.insert(0, 1 / (durations.pop() * tick))
    good = [rate for rate in candidates if rate is not None and _SLOWEST <= rate <= _FASTEST]
    rate = good[0] if good else Fraction(25)
    return min(rate, 1 / tick) if untimed and tick else rate


def _duration_s(source: InputContainer, stream: VideoStream, start: _Start) -> float | None:
    if stream.duration and stream.time_base:
        length = float(stream.duration * stream.time_base)
    elif source.duration:
        length = source.duration / av.time_base
    else:
        return None
    if source.format.name not in _END_AS_DURATION:
        return length
    first = min((p.pts for p in start.video if p.pts is not None), default=0)
    begin = float(first * (stream.time_base or 0))
    return length - begin if 0 < begin < length else length


def _frames_estimate(stream: VideoStream, length: float | None) -> int | None:
    if stream.frames:
        return stream.frames
    if length is None or not stream.average_rate:
        return None
    return max(1, round(length * stream.average_rate))


def _ratio(value: Fraction) -> Ratio:
    return value.numerator, value.denominator


def _sounds(
    source: InputContainer, start: _Start, container: Container, limits: SourceLimits
) -> Iterator[SoundInfo]:
    """Sound streams that can be kept; the others are left out, which the result's report says."""
    for stream in [s for s in source.streams.audio if _is_sound(s, limits)][: limits.sounds]:
        context = stream.codec_context
        copied = _can_copy(stream, start.sounds.get(stream.index, []), container)
        yield SoundInfo(
            stream=stream.index,
            codec=context.codec.canonical_name,
            sample_rate=context.sample_rate,
            channels=context.channels,
            copied=copied,
        )


def _is_sound(stream: AudioStream, limits: SourceLimits) -> bool:
    """True when it has a known codec and its rate and channels are those of sound."""
    context = getattr(stream, "codec_context", None)
    return (
        context is not None
        and _LOWEST_HZ <= context.sample_rate <= limits.sample_rate
        and 0 < context.channels <= limits.channels
    )


def _can_copy(stream: AudioStream, packets: list[AnyPacket], container: Container) -> bool:
    """Really write header, a few packets and trailer: muxers refuse at any of the three."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            copy = add_copied_sound(trial, stream)
            trial.start_encoding()
            for packet in packets:
                clone = Packet(bytes(packet))
                clone.pts, clone.dts = plain_time(packet.pts), plain_time(packet.dts)
                clone.duration = packet.duration
                clone.time_base = packet.time_base
                clone.is_keyframe = packet.is_keyframe
                clone.stream = copy
                trial.mux(clone)
    except (av.error.FFmpegError, ValueError):
        return False
    return True
