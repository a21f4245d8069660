"""Doctored files, box by box: an MP4 of JPEG pictures whose every table may say what a test wants.

A JPEG is a keyframe by itself, so that packets may be repeated, left out and re-timed at will.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from struct import pack

import av

from tests.videos import numbered_frame

SIZE = (64, 32)
FTYP = pack(">I4s4sI4s", 20, b"ftyp", b"qt  ", 512, b"qt  ")
MATRIX = pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
ITSELF = pack(">I4sI", 12, b"url ", 1)
"""Data reference: the media lies in this file."""


def box(kind: bytes, *content: bytes) -> bytes:
    """A box of ISO/IEC 14496-12, 4.2."""
    body = b"".join(content)
    return pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, *content: bytes) -> bytes:
    """A box with version 0 and no flags."""
    return box(kind, bytes(4), *content)


def table(kind: bytes, *entries: bytes, count: int | None = None) -> bytes:
    """A full box with a count and entries; `count` may lie."""
    return full(kind, pack(">I", len(entries) if count is None else count), *entries)


@cache
def picture(number: int = 0, size: tuple[int, int] = SIZE) -> bytes:
    """One JPEG of `size`, a packet of codec mjpeg."""
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = *size, "yuvj420p"
    (packet,) = [*context.encode(numbered_frame(number, size, "yuvj420p")), *context.encode(None)]
    return bytes(packet)


@dataclass(frozen=True)
class Mp4:
    """An MP4 (QuickTime brand) with one track of JPEG pictures.

    `steps` are the frames' lengths in ticks of 1 / `timescale` s; `samples` their data. `tables`
    replace boxes of the sample table, `reference` the entry of the data reference box; `tail`
    follows behind everything.
    """

    samples: Sequence[bytes] = ()
    steps: Sequence[int] = ()
    timescale: int = 25
    size: tuple[int, int] = SIZE
    tables: Mapping[bytes, bytes] = field(default_factory=dict)
    reference: bytes = ITSELF
    matrix: bytes = MATRIX
    tracks: int = 1
    tail: bytes = b""

    def build(self) -> bytes:
        """The whole file: the media first, then the index."""
        samples = self.samples or [picture(i) for i in range(6)]
        media = box(b"mdat", *samples)
        first = len(FTYP) + 8
        track = self._track(samples, first)
        header = full(
            b"mvhd", bytes(8), pack(">III", 1000, 1000, 1 << 16), pack(">H", 256), bytes(10),
            MATRIX, bytes(24), pack(">I", self.tracks + 1),
        )  # fmt: skip
        return FTYP + media + box(b"moov", header, *[track] * self.tracks) + self.tail

    def _track(self, samples: Sequence[bytes], first: int) -> bytes:
        steps = self.steps or [1] * len(samples)
        duration = min(sum(steps), (1 << 32) - 1)
        width, height = self.size
        entry = box(
            b"jpeg", bytes(6), pack(">H", 1), bytes(16), pack(">HH", width, height),
            pack(">II", 72 << 16, 72 << 16), bytes(4), pack(">H", 1), bytes(32),
            pack(">Hh", 24, -1),
        )  # fmt: skip
        places, place = [], first
        for sample in samples:
            places.append(pack(">I", place))
            place += len(sample)
        tables = {
            b"stsd": table(b"stsd", entry),
            b"stts": table(b"stts", *(pack(">II", 1, step) for step in steps)),
            b"stsc": table(b"stsc", pack(">III", 1, 1, 1)),
            b"stsz": full(
                b"stsz", pack(">II", 0, len(samples)), *(pack(">I", len(s)) for s in samples)
            ),
            b"stco": table(b"stco", *places),
        } | dict(self.tables)
        media_header = full(
            b"mdhd", bytes(8), pack(">II", self.timescale, duration), pack(">HH", 0x55C4, 0)
        )
        return box(
            b"trak",
            full(b"tkhd", bytes(8), pack(">II", 1, 0), pack(">I", 1000), bytes(16), self.matrix,
                 pack(">II", width << 16, height << 16)),
            box(
                b"mdia",
                media_header,
                full(b"hdlr", b"mhlr", b"vide", bytes(12), b"\0"),
                box(
                    b"minf",
                    full(b"vmhd", bytes(8)),
                    box(b"dinf", table(b"dref", self.reference)),
                    box(b"stbl", *tables.values()),
                ),
            ),
        )  # fmt: skip
