"""Where decoding may begin: reads just enough of a keyframe's bitstream to be sure.

A container's keyframe flag also marks places from which the picture only recovers by and by
(H.264 intra refresh), so for the codecs that have such things the bitstream decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from av.codec import Codec
from av.video.codeccontext import VideoCodecContext

_SCAN_BYTES = 1 << 16

# Codecs without such traps: a keyframe resets everything.
_TRUSTED = frozenset(
    (
        *("vp6", "vp6f", "vp7", "mpeg4", "h263", "h263p", "flv1", "theora", "ffv1", "snow", "svq3"),
        *("msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "gif", "hap", "indeo5"),
        *("qtrle", "rpza", "smc", "cinepak", "msvideo1", "zmbv", "flashsv", "flashsv2"),
    )
)

Nal = tuple[int, bytes]
"""Type and the beginning of a NAL unit, header included."""


def random_access(context: VideoCodecContext) -> Callable[[bytes], bool]:
    """The check for keyframe payloads of the stream that `context` decodes."""
    codec = context.codec.canonical_name
    extradata = context.extradata or b""
    if codec in ("h264", "hevc"):
        length_size = _length_size(codec, extradata)
        clean = _h264_clean if codec == "h264" else _hevc_clean

        def check(payload: bytes) -> bool:
            return clean(list(_nals(payload, length_size, codec)), length_size == 0)

        return check
    checks: dict[str, Callable[[bytes], bool]] = {
        "mpeg1video": _mpeg2_clean,
        "mpeg2video": _mpeg2_clean,
        "vp8": lambda data: bool(data) and not data[0] & 1,
        "vp9": _vp9_clean,
        "av1": _av1_clean,
    }
    trusted = codec in _TRUSTED or Codec(context.codec.name, "r").intra_only
    return checks.get(codec, lambda _: trusted)


def shows_nothing(codec: str, payload: bytes) -> bool:
    """True for a packet that yields no frame: an empty one, or a VP8 alt-ref frame (RFC 6386)."""
    return not payload or (codec == "vp8" and not payload[0] & 0x10)


def _length_size(codec: str, extradata: bytes) -> int:
    """Bytes of a NAL unit's length, 0 for Annex B (ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1)."""
    if codec == "h264":
        return (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0
    if len(extradata) > 22 and (extradata[0] or extradata[1] or extradata[2] > 1):
        return (extradata[21] & 3) + 1
    return 0


def _nals(payload: bytes, length_size: int, codec: str) -> Iterator[Nal]:
    for unit in _units(payload, length_size):
        if unit:
            yield (unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63), unit


def _units(payload: bytes, length_size: int) -> Iterator[bytes]:
    """Beginnings of the NAL units (at most 4 KiB of each)."""
    if length_size == 0:
        yield from _annex_b(payload)
        return
    position = 0
    while position + length_size < len(payload):
        size = int.from_bytes(payload[position : position + length_size], "big")
        position += length_size
        yield payload[position : position + min(size, 4096)]
        position += size


def _annex_b(payload: bytes) -> Iterator[bytes]:
    start = payload.find(b"\x00\x00\x01")
    while start >= 0:
        following = payload.find(b"\x00\x00\x01", start + 3)
        end = following if following >= 0 else len(payload)
        yield payload[start + 3 : min(end, start + 3 + 4096)]
        start = following


def _h264_clean(nals: list[Nal], annex_b: bool) -> bool:
    """IDR, or an I picture from which everything later in output order is right at once.

    In Annex B the parameter sets have to be there too: the container's may be outdated.
    """
    types = {kind for kind, _ in nals}
    if annex_b and not {7, 8} <= types:
        return False
    if 5 in types:
        return True
    return any(_recovery_frames(unit[1:]) == 0 for kind, unit in nals if kind == 6)


def _recovery_frames(sei: bytes) -> int | None:
    """recovery_frame_cnt of a recovery point SEI (H.264, D.1.8), None when there is none."""
    data = sei.replace(b"\x00\x00\x03", b"\x00\x00")
    position = 0
    while position + 2 < len(data):
        kind, position = _ff_coded(data, position)
        size, position = _ff_coded(data, position)
        if kind == 6:
            return _exp_golomb(data[position : position + 8])
        position += size
    return None


def _ff_coded(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    while position < len(data) and data[position] == 0xFF:
        value += 255
        position += 1
    return value + (data[position] if position < len(data) else 0), position + 1


def _exp_golomb(data: bytes) -> int:
    bits = "".join(f"{byte:08b}" for byte in data)
    zeros = len(bits) - len(bits.lstrip("0"))
    digits = bits[zeros : 2 * zeros + 1]
    return int(digits, 2) - 1 if len(digits) == zeros + 1 else -1


def _hevc_clean(nals: list[Nal], annex_b: bool) -> bool:
    """BLA, IDR or CRA (H.265, table 7-1); in Annex B with its parameter sets."""
    types = {kind for kind, _ in nals}
    return bool(types & set(range(16, 22))) and (not annex_b or {33, 34} <= types)


def _mpeg2_clean(payload: bytes) -> bool:
    """An I picture behind a sequence header, which carries the quantiser matrices."""
    head = payload[:_SCAN_BYTES]
    picture = head.find(b"\x00\x00\x01\x00")
    sequence = head.find(b"\x00\x00\x01\xb3")
    if sequence < 0 or picture < sequence or picture + 5 >= len(head):
        return False
    return head[picture + 5] >> 3 & 7 == 1


def _vp9_clean(payload: bytes) -> bool:
    """Key frame by the uncompressed header (VP9 specification, 6.2)."""
    if not payload or payload[0] >> 6 != 2:
        return False
    profile = (payload[0] >> 5 & 1) | (payload[0] >> 4 & 1) << 1
    flags = payload[0] << (1 if profile == 3 else 0)
    show_existing, inter = flags >> 3 & 1, flags >> 2 & 1
    return not show_existing and not inter


def _av1_clean(payload: bytes) -> bool:
    """A shown key frame with a sequence header in the same temporal unit (AV1, 5.9.2)."""
    sequence = False
    for kind, data in _obus(payload):
        if kind == 1:
            sequence = True
        elif kind in (3, 6) and data:
            show_existing, frame_type, shown = data[0] >> 7, data[0] >> 5 & 3, data[0] >> 4 & 1
            return sequence and not show_existing and frame_type == 0 and bool(shown)
    return False


def _obus(payload: bytes) -> Iterator[Nal]:
    position = 0
    while position < len(payload):
        header = payload[position]
        position += 2 if header & 4 else 1
        size = len(payload) - position
        if header & 2:
            size, position = _leb128(payload, position)
        yield header >> 3 & 15, payload[position : position + min(size, 64)]
        position += size


def _leb128(payload: bytes, position: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        if position >= len(payload):
            break
        byte = payload[position]
        position += 1
        value |= (byte & 0x7F) << (7 * i)
        if not byte & 0x80:
            break
    return value, position
