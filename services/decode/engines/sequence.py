"""What a sequence parameter set of H.264 or HEVC says that decides whether NVDEC shows the pictures
as the other engines do. Syntax: ITU-T H.264, 7.3.2.1.1; H.265, 7.3.2.2.1 and 7.3.3."""

from __future__ import annotations

from dataclasses import dataclass

_WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_FULL_CHROMA = 3
_PROFILE_BITS, _LEVEL_BITS = 88, 8


@dataclass(frozen=True, slots=True)
class Sequence:
    """`frames_only`: no picture can be of two fields. `shifted`: the shown part does not begin at
    the top left of what is coded."""

    profile: int
    frames_only: bool
    shifted: bool


def read_sequence(unit: bytes, codec: str) -> Sequence:
    """Of a NAL unit without start code. Raises IndexError when it is cut off."""
    # Emulation prevention (7.3.1): a 3 after two zeros is not part of the syntax.
    bits = _Bits(unit.replace(b"\0\0\3", b"\0\0"))
    return _h264(bits) if codec == "h264" else _hevc(bits)


class _Bits:
    """Reads a payload bit by bit, the first one first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """The next `count` bits."""
        if count > self._left:
            raise IndexError("the end of a parameter set")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def number(self) -> int:
        """ue(v), Exp-Golomb (9.1 in both)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def skip_numbers(self, count: int) -> None:
        """So many of ue(v) or se(v), which are as long."""
        for _ in range(count):
            self.number()

    def signed(self) -> int:
        """se(v)."""
        code = self.number()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _h264(bits: _Bits) -> Sequence:
    bits.take(8)  # the unit's header
    profile = bits.take(8)
    bits.take(16)  # constraints and level
    bits.number()
    if profile in _WITH_CHROMA_FORMAT:
        _skip_formats(bits)
    bits.number()  # log2_max_frame_num
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.skip_numbers(2)
        bits.skip_numbers(bits.number())
    bits.number()  # reference frames
    bits.take(1)
    bits.skip_numbers(2)  # size
    frames_only = bool(bits.take(1))
    if not frames_only:
        bits.take(1)
    bits.take(1)
    return Sequence(profile, frames_only, _shifted(bits))


def _skip_formats(bits: _Bits) -> None:
    """Chroma format, depths and scaling matrices of the high profiles."""
    chroma = bits.number()
    if chroma == _FULL_CHROMA:
        bits.take(1)
    bits.skip_numbers(2)
    bits.take(1)
    if not bits.take(1):
        return
    for index in range(12 if chroma == _FULL_CHROMA else 8):
        if bits.take(1):
            _skip_scaling_list(bits, 16 if index < 6 else 64)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    """7.3.2.1.1.1: it ends where a scale becomes 0."""
    last = 8
    for _ in range(size):
        last = (last + bits.signed()) % 256
        if not last:
            return


def _hevc(bits: _Bits) -> Sequence:
    bits.take(16 + 4)  # the unit's header, the video parameter set
    layers = bits.take(3)
    bits.take(1 + 3)
    profile = bits.take(5)
    bits.take(32)  # compatibility
    frames_only = bits.take(2) != 1  # general_progressive_source_flag, and _interlaced_
    bits.take(_PROFILE_BITS - 8 - 32 - 2 + _LEVEL_BITS)
    flags = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for has_profile, has_level in flags:
        bits.take(_PROFILE_BITS * has_profile + _LEVEL_BITS * has_level)
    bits.number()
    if bits.number() == _FULL_CHROMA:
        bits.take(1)
    bits.skip_numbers(2)  # size
    return Sequence(profile, frames_only, _shifted(bits))


def _shifted(bits: _Bits) -> bool:
    """Of the window that is cut out: left, right, top, bottom."""
    if not bits.take(1):
        return False
    left, _, top, _ = (bits.number() for _ in range(4))
    return bool(left or top)
