"""The decoders, in the order of preference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.decode.engines.base import SegmentDecoder
from services.decode.engines.pyav import PyAvDecoder


class OneThreadDecoder(PyAvDecoder):
    """FFmpeg without its threads, where some of its crashes and hangs live."""

    name = "pyav-1thread"

    def __init__(self) -> None:
        super().__init__(threads=1)


def decoders(threads: int) -> Sequence[Callable[[], SegmentDecoder]]:
    """Makers of decoders, best first; `threads` of the first."""
    return (lambda: PyAvDecoder(threads=threads), OneThreadDecoder)
