"""Parameter sets that change within a track: chunks of another encoder.

Said twice. As a second sample entry (ISO/IEC 14496-12, 8.5.2), which FFmpeg's muxer of mp4 and
mov writes where a packet carries new extradata, and its demuxer hands out again with the first
packet of each stretch; QuickTime goes by that. And, for H.264, before the keyframe of each chunk:
Chromium puts the first entry's sets before every keyframe, and only what comes later there counts.
"""

from __future__ import annotations

from typing import Any

from av.packet import Packet, PacketSideData

_NEW_EXTRADATA = 1
"""FFmpeg's AV_PKT_DATA_NEW_EXTRADATA."""
_NAME = "new_extradata"


def describe(packet: Packet[Any], header: bytes) -> None:
    """Have who gets this packet take `header` for it and those after it."""
    # The stubs leave the constructor out; it takes type and size.
    side = PacketSideData(_NEW_EXTRADATA, len(header))  # type: ignore[call-arg]
    side.update(header)
    side.to_packet(packet, move=True)


def in_band(packet: Packet[Any], header: bytes) -> Packet[Any]:
    """A keyframe with its parameter sets before it; both in Annex B. Times are the caller's to
    set."""
    made: Packet[Any] = Packet(header + bytes(packet))
    made.is_keyframe = packet.is_keyframe
    return made


def described(packet: Packet[Any]) -> bytes | None:
    """The new header that comes with a packet, if one does."""
    for side in packet.iter_sidedata():
        if side.data_type == _NAME:
            return bytes(side)
    return None
