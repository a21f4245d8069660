"""Parameter sets that change within a track: chunks of another encoder, as a second sample entry.

FFmpeg's muxer of mp4 and mov writes one where a packet carries new extradata, and its demuxer hands
that out again with the first packet of each stretch (ISO/IEC 14496-12, 8.5.2).
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


def described(packet: Packet[Any]) -> bytes | None:
    """The new header that comes with a packet, if one does."""
    for side in packet.iter_sidedata():
        if side.data_type == _NAME:
            return bytes(side)
    return None
