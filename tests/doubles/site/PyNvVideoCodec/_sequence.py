"""How many pictures a stream of H.264 or HEVC refers to, as its parameter sets say (ITU-T H.264,
7.3.2.1.1; H.265, 7.3.2.2.1 and 7.3.3): what the driver's parser tells the library."""

from __future__ import annotations

from contextlib import suppress

SETS = {("h264", 7), ("hevc", 33)}
"""Types of NAL units."""
FORMATS = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""Profiles of H.264 whose sets say chroma format and depth."""


def references(data: bytes, codec: str) -> int | None:
    """By the last sequence set in a packet with start codes; None where there is none to read."""
    found = None
    for unit in filter(None, data.split(b"\0\0\1")[1:]):
        kind = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
        if (codec, kind) in SETS:
            bits = Bits(unit.replace(b"\0\0\3", b"\0\0"))
            with suppress(ValueError):  # cut off
                found = _h264(bits) if codec == "h264" else _hevc(bits)
    return found


class Bits:
    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        return int(self._bits[self._at - count : self._at] or "0", 2)

    def number(self) -> int:
        """ue(v)"""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1

    def numbers(self, count: int) -> None:
        for _ in range(count):
            self.number()


def _h264(bits: Bits) -> int:
    bits.take(8)
    profile = bits.take(8)
    bits.take(16)
    bits.number()
    if profile in FORMATS:
        chroma = bits.number()
        bits.take(1 if chroma == 3 else 0)
        bits.numbers(2)
        bits.take(1)
        if bits.take(1):
            _skip_scaling(bits, 12 if chroma == 3 else 8)
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.numbers(2)
        bits.numbers(bits.number())
    return bits.number()


def _skip_scaling(bits: Bits, lists: int) -> None:
    for index in range(lists):
        last = 8 if bits.take(1) else 0
        for _ in range(16 if index < 6 else 64):
            if last:
                code = bits.number()
                last = (last + (code + 1 >> 1 if code % 2 else -(code >> 1))) % 256


def _hevc(bits: Bits) -> int:
    bits.take(16 + 4)
    layers = bits.take(3)
    bits.take(1 + 88 + 8)
    flags = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    bits.take(2 * (8 - layers) if layers else 0)
    for has_profile, has_level in flags:
        bits.take(88 * has_profile + 8 * has_level)
    bits.number()
    if bits.number() == 3:
        bits.take(1)
    bits.numbers(2)
    if bits.take(1):
        bits.numbers(4)
    bits.numbers(3)
    most = 0
    for _ in range(layers + 1 if bits.take(1) else 1):
        most = max(most, bits.number())  # pictures that are kept, less one
        bits.numbers(2)
    return most
