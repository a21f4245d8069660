"""NVENC from the memory of the GPU, through PyNvVideoCodec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
from av.bitstream import BitStreamFilterContext
from av.codec.context import CodecContext
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from services.encode.chunks import write_chunk
from services.encode.engines.base import ChunkInfo, Frame
from services.encode.engines.common import check_size, described_stream, in_order, info_of
from services.encode.plan import (
    QUALITY,
    RateControl,
    RateMode,
    color_filter,
    nvcodec_options,
    nvenc_plan,
)
from shared.cuda import nvcodec
from shared.cuda.device import Device
from shared.cuda.memory import Memory
from shared.errors import DeviceLostError, EngineError
from shared.jobs import Codec, ColorTags, OutputPlan, Rect
from shared.logs import Log
from shared.media.layout import FrameLayout, PixelFormat, Planes
from shared.sessions import SessionKind, SessionNeed

_SETS = {Codec.H264: "7|8", Codec.HEVC: "32-34"}
"""NAL unit types of parameter sets, which go into a chunk's header."""
_NOT_PICTURES = {Codec.H264: "6-9", Codec.HEVC: "32-35|39|40"}
"""Those, delimiters of access units, and SEI: none of them in packets, as software encoders do."""
_IDR, _FORCE_IDR = 3, 2
"""NV_ENC_PIC_TYPE_IDR; NV_ENC_PIC_FLAG_FORCEIDR."""
_TRIAL = FrameLayout(width=256, height=144, format=PixelFormat.NV12)
"""Larger than the smallest picture of all generations."""
_TRIAL_FRAMES = 5
"""More than the library holds back."""


@dataclass(slots=True)
class _Open:
    """An encoder of the library. `wanted`: width, height and options that it was opened with;
    `sets`: its parameter sets, Annex B."""

    encoder: Any
    wanted: tuple[int, int, dict[str, str]]
    sets: bytes = b""


class NvencEncoder:
    """A ChunkEncoder. Keeps its session open for the next chunk of the same kind.

    Each chunk begins with an IDR picture that was asked for and ends with a flush, so it refers to
    no other. Two things are carried over all the same: H.264 counts IDR pictures (`idr_pic_id`),
    and rate control remembers. The former shows nowhere; for the latter, chunks with a bit rate,
    whose buffers each begin as planned, get a fresh session. Of constant quality, a chunk that is
    made again may differ in bits from what a fresh session makes, within the same quality.

    Whether a driver's encoder goes on after a flush is tried with the first small pictures; where
    it does not, each chunk gets a fresh one.
    """

    memory: Memory = "device"

    def __init__(self, device: Device, preset: str = "p4") -> None:
        """`preset` of the settings, `p1` to `p7`. Opens no session. Raises EngineError where the
        library or a driver is missing."""
        self._device = device
        self._preset = preset
        self._nvc = nvcodec.library()
        self._errors = nvcodec.errors(self._nvc)
        self._caps: dict[Codec, dict[str, int]] = {}
        self._verdicts: dict[Codec, str] = {}
        self._goes_on: dict[Codec, bool] = {}
        self._kept: _Open | None = None
        self.session: SessionNeed | None = SessionNeed(SessionKind.NVENC, device.uuid, self.close)

    def close(self) -> None:
        """Close the session that is kept, if there is one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            # Its last reference, also where an exception keeps the frames of a call that failed;
            # the library has no other way.
            kept.encoder = None

    def name_for(self, codec: Codec) -> str:
        """See ChunkEncoder."""
        return f"nvenc-{codec.value}"

    def refusal(self, output: OutputPlan) -> EngineError | None:
        """See ChunkEncoder."""
        codec = output.codec
        if codec not in _SETS:
            return EngineError(f"NVENC is not used for {codec.value}.")
        if verdict := self._verdicts.get(codec):
            return EngineError(verdict)
        caps = self._caps.get(codec)
        if caps is None or _fits(output, caps):
            return None
        return EngineError(
            f"This GPU does not encode {codec.value} of {output.width}x{output.height} px."
        )

    def encode(
        self,
        frames: Iterable[Frame],
        layout: FrameLayout,
        output: OutputPlan,
        path: Path,
        rate: RateControl = QUALITY,
    ) -> ChunkInfo:
        """See ChunkEncoder."""
        check_size(layout, output)
        if layout.format is not PixelFormat.NV12:
            raise EngineError("NVENC is used for NV12 in the GPU's memory only.")
        self._check(output)
        tick = Fraction(*output.time_base)

        def make(out: OutputContainer) -> tuple[VideoStream, list[Packet[VideoStream]]]:
            header, made = self._encoded(frames, output, rate)
            first = header + made[0][1].data
            # The header as we have it: what is read out of a stream has other start codes.
            stream = described_stream(out, first, output.codec.value, output, header)
            return stream, [_packet(pts, coded, tick) for pts, coded in made]

        try:
            return info_of(write_chunk(path, tick, make), path)
        except EngineError as error:
            if error.able:
                raise
            # It has encoded here: whatever the driver calls it, it should have been able to.
            raise EngineError(error.message, True) from error

    # --- what the GPU can do ----------------------------------------------------------------------

    def _check(self, output: OutputPlan) -> None:
        """Raises EngineError when this GPU has no encoder for the output, or none at all. It is
        asked once per codec, whatever it says: each question makes a context of its own."""
        for find_out in (self._ask, self._try):
            if (known := self.refusal(output)) is not None:
                raise known
            find_out(output.codec)
        if (known := self.refusal(output)) is not None:
            raise known

    def _ask(self, codec: Codec) -> None:
        """Have the GPU's limits for `codec`, or its refusal. Raises what may be otherwise later."""
        if codec in self._caps:
            return
        try:
            with self._told(begun=False):
                self._caps[codec] = self._nvc.GetEncoderCaps(0, codec.value)
        except EngineError as error:
            if error.able:
                raise
            self._verdicts[codec] = error.message

    def _try(self, codec: Codec) -> None:
        """Encode some small pictures, once per codec: what a driver lists, it may not do."""
        if codec in self._verdicts:
            return
        try:
            self._encode_small(codec)
            self._verdicts[codec] = ""
        except DeviceLostError:
            raise
        except EngineError as error:
            self._verdicts[codec] = f"NVENC does not encode {codec.value}: {error.message}"

    def _encode_small(self, codec: Codec) -> None:
        slot = self._device.empty((_TRIAL.frame_bytes,))  # of any picture
        half = Rect(x=0, y=0, w=_TRIAL.width // 2, h=_TRIAL.height)
        plan = OutputPlan(
            width=_TRIAL.width,
            height=_TRIAL.height,
            tiles=(half, half),
            codec=codec,
            crf=30,
            preset="veryfast",
            color=ColorTags(),
            time_base=(1, 25),
            frame_rate=(25, 1),
        )
        frames = [(at, _TRIAL.planes(slot)) for at in range(_TRIAL_FRAMES)]
        self._goes_on[codec] = True
        try:
            self._encoded(frames, plan, QUALITY)
            try:
                header, made = self._encoded(frames, plan, QUALITY)
                data = [header + made[0][1].data, *(each.data for _, each in made[1:])]
                if _decodable(codec, data) != len(frames):
                    raise EngineError("The chunk after a flush does not decode by itself.", True)
            except DeviceLostError:
                raise
            except EngineError as error:
                self._goes_on[codec] = False
                Log().warning("NVENC sessions are not kept", reason=error.message)
        finally:
            self.close()

    # --- encoding ---------------------------------------------------------------------------------

    def _encoded(
        self, frames: Iterable[Frame], output: OutputPlan, rate: RateControl
    ) -> tuple[bytes, list[tuple[int, _Coded]]]:
        """Parameter sets, and pts and coded picture of each frame, all Annex B."""
        times: list[int] = []
        packets = list[_Coded]()
        opened = self._opened(output, rate)
        whole = False
        try:
            for pts, planes in in_order(frames):
                # Asked for also of a fresh one: it costs nothing.
                asked = () if times else (_FORCE_IDR,)
                times.append(pts)
                with self._told(begun=True):
                    packets += _coded(opened.encoder.Encode(_Picture(planes), *asked))
            with self._told(begun=True):
                packets += _coded(opened.encoder.EndEncode())
            if len(packets) != len(times):
                raise EngineError(
                    f"NVENC made {len(packets)} packets of {len(times)} frames.", True
                )
            if not packets[0].key:
                raise EngineError("NVENC made a chunk that does not begin with a key frame.", True)
            whole = True
        finally:
            keeps = rate.mode is RateMode.QUALITY and self._goes_on.get(output.codec, False)
            if not (whole and keeps):
                self.close()
        cleaner = BitStreamFilterContext(
            f"filter_units=remove_types={_NOT_PICTURES[output.codec]}", output.codec.value
        )
        pictures = [_Coded(_filtered(cleaner, each.data), each.key) for each in packets]
        return _header(opened.sets, output), list(zip(times, pictures, strict=True))

    def _opened(self, output: OutputPlan, rate: RateControl) -> _Open:
        """The session for such a chunk, which is `_kept` from then on."""
        options = nvcodec_options(nvenc_plan(output, rate, self._preset), output)
        wanted = output.width, output.height, options
        if self._kept is not None and self._kept.wanted == wanted:
            return self._kept
        self.close()  # one session, one encoder
        with self._told(begun=False):
            self._kept = _Open(
                self._nvc.CreateEncoder(
                    output.width,
                    output.height,
                    "NV12",
                    False,
                    gpu_id=0,
                    cudastream=self._device.stream,
                    **options,
                ),
                wanted,
            )
        try:
            with self._told(begun=False):
                self._kept.sets = bytes(self._kept.encoder.GetSequenceParams())
        except EngineError:
            self.close()
            raise
        return self._kept

    @contextmanager
    def _told(self, *, begun: bool) -> Iterator[None]:
        """Translates the library's errors; `begun`: it has been given a frame of this chunk."""
        try:
            yield
        except self._errors as error:
            raise nvcodec.encoding_failed(error, begun=begun) from error


class _Coded(NamedTuple):
    """A coded picture, and whether it is an IDR picture."""

    data: bytes
    key: bool


class _Plane:
    """A plane as the library wants it described: three dimensions, and the strides of one that has
    no padding."""

    def __init__(self, plane: Any, samples: int) -> None:
        rows, columns = plane.shape
        pointer = plane.__cuda_array_interface__["data"][0]
        self.__cuda_array_interface__ = {
            "shape": (rows, columns // samples, samples),
            "strides": (columns, samples, 1),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 3,
        }


class _Picture:
    """NV12 planes as the library's encoder takes them."""

    def __init__(self, planes: Planes) -> None:
        luma, chroma = planes
        self._planes = [_Plane(luma, 1), _Plane(chroma, 2)]

    def cuda(self) -> list[_Plane]:
        """The planes, one behind the other in memory."""
        return self._planes


def _fits(output: OutputPlan, caps: Mapping[str, int]) -> bool:
    """Whether pictures of the output's size are within the limits that the GPU told."""
    return all(
        caps.get(f"{side}_min", 0) <= size <= caps.get(f"{side}_max", 0)
        for side, size in (("width", output.width), ("height", output.height))
    )


def _coded(answer: Any) -> list[_Coded]:
    """What Encode and EndEncode give: some pictures, or none."""
    if not isinstance(answer, list):
        raise EngineError("This PyNvVideoCodec is too old; 2.2 is needed.")
    return [_Coded(bytes(each["data"]), each["picture_type"] == _IDR) for each in answer]


def _filtered(context: BitStreamFilterContext, data: bytes) -> bytes:
    """The one packet that a filter makes of one; for filters that hold none back."""
    return b"".join(bytes(packet) for packet in context.filter(Packet(data)))


def _header(sets: bytes, output: OutputPlan) -> bytes:
    """The parameter sets with the output's colours, which the library can't be told in full."""
    codec = output.codec
    filters = (
        f"{codec.value}_metadata={color_filter(output)},filter_units=pass_types={_SETS[codec]}"
    )
    try:
        return _filtered(BitStreamFilterContext(filters, codec.value), sets)
    except av.FFmpegError as error:
        raise EngineError(f"NVENC's parameter sets can't be read: {error}", True) from error


def _packet(pts: int, coded: _Coded, tick: Fraction) -> Packet[VideoStream]:
    packet = cast("Packet[VideoStream]", Packet(coded.data))
    packet.pts = packet.dts = pts
    packet.time_base = tick
    packet.is_keyframe = coded.key
    return packet


def _decodable(codec: Codec, packets: Sequence[bytes]) -> int:
    """How many pictures a software decoder makes of a chunk alone."""
    decoder = CodecContext.create(codec.value, "r")
    assert isinstance(decoder, VideoCodecContext)
    try:
        shown = [len(decoder.decode(packet)) for packet in [*map(Packet, packets), None]]
    except av.FFmpegError:
        return 0
    return sum(shown)
