"""Compares a result with its source, knowing nothing of how it was made: only PyAV reads the two.

Times are exact fractions of a second. All frames of both are decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

_FILL_IN_TIMES = 1
"""AVFMT_FLAG_GENPTS, which PyAV sets: a missing time would be made up from another's."""


@dataclass(frozen=True)
class Sound:
    """Packets of one stream: hash of each payload, and when each begins, seconds."""

    codec: str
    tick: Fraction
    rate: int
    hashes: tuple[str, ...]
    starts: tuple[Fraction, ...]
    whole: str
    """Hash of all payloads as one: PCM has no packets of its own in mp4."""


@dataclass(frozen=True)
class Verdict:
    """What was compared. `shift`: seconds by which the first frame is later than the source's."""

    frames_in: int
    frames_out: int
    sounds: int
    shift: Fraction
    problems: tuple[str, ...]


def verify(source: Path, result: Path) -> Verdict:
    """Every frame at its own time, every sound packet as it was, the offset between them kept."""
    given, made = frame_times(source), frame_times(result)
    shift = made[0] - given[0] if given and made else Fraction(0)
    problems = [*_compare_frames(given, made, shift)]
    sounds_in, sounds_out = sounds_of(source), sounds_of(result)
    if len(sounds_in) != len(sounds_out):
        problems.append(f"{len(sounds_in)} sounds became {len(sounds_out)}")
    for number, (before, after) in enumerate(zip(sounds_in, sounds_out, strict=False)):
        problems += [f"sound {number}: {text}" for text in _compare_sound(before, after, shift)]
    return Verdict(len(given), len(made), len(sounds_out), shift, tuple(problems))


def video_of(opened: InputContainer) -> VideoStream:
    """The stream that a person means: of several the largest picture."""
    return max(opened.streams.video, key=lambda s: (s.width * s.height, -s.index))


def frame_times(path: Path) -> list[Fraction]:
    """When each frame is shown, in the order of showing; i / rate where the file has no times."""
    with av.open(str(path)) as opened:
        opened.flags &= ~_FILL_IN_TIMES
        stream = video_of(opened)
        stream.thread_type = "AUTO"
        tick = Fraction(stream.time_base or 1)
        packets = [packet for packet in opened.demux(stream) if packet.size]
        rate = Fraction(stream.average_rate or 25)
        known = all(packet.pts is not None for packet in packets)
        shown = [frame for packet in [*packets, None] for frame in stream.decode(packet)]
        if not known:
            return [index / rate for index in range(len(shown))]
        return [Fraction(frame.pts or 0) * tick for frame in shown]


def sounds_of(path: Path) -> list[Sound]:
    """All sound streams, in the order of the file."""
    with av.open(str(path)) as opened:
        return [_sound(path, stream) for stream in opened.streams.audio]


def _sound(path: Path, wanted: AudioStream) -> Sound:
    hashes: list[str] = []
    starts: list[Fraction] = []
    whole = hashlib.sha256()
    tick = Fraction(wanted.time_base or 1)
    aac = wanted.codec_context.codec.canonical_name == "aac"
    with av.open(str(path)) as opened:
        for packet in opened.demux(opened.streams[wanted.index]):
            if packet.size:
                payload = _without_adts(bytes(packet)) if aac else bytes(packet)
                hashes.append(hashlib.sha256(payload).hexdigest())
                whole.update(payload)
                starts.append((packet.pts or 0) * tick)
    name, rate = wanted.codec_context.codec.canonical_name, wanted.codec_context.sample_rate
    return Sound(name, tick, rate, tuple(hashes), tuple(starts), whole.hexdigest())


def _without_adts(packet: bytes) -> bytes:
    """The AAC frame itself: MPEG-TS puts a header before each (ISO/IEC 13818-7, 6.2), mp4 none."""
    if packet[0] != 0xFF or packet[1] & 0xF6 != 0xF0:
        return packet
    return packet[7 if packet[1] & 1 else 9 :]


def _compare_frames(
    given: Sequence[Fraction], made: Sequence[Fraction], shift: Fraction
) -> list[str]:
    problems = []
    if len(given) != len(made):
        problems.append(f"{len(given)} frames became {len(made)}")
    if any(later <= earlier for earlier, later in pairwise(made)):
        problems.append("times do not ascend")
    wrong = [i for i, (a, b) in enumerate(zip(given, made, strict=False)) if a + shift != b]
    if wrong:
        at = wrong[0]
        problems.append(
            f"{len(wrong)} frames at another time, first {at}: {given[at]} became {made[at]}"
        )
    return problems


def _compare_sound(given: Sound, made: Sound, shift: Fraction) -> list[str]:
    problems = []
    pcm = given.codec.startswith("pcm_")
    if given.codec != made.codec:
        problems.append(f"{given.codec} became {made.codec}")
    if (given.whole != made.whole) if pcm else (given.hashes != made.hashes):
        problems.append(f"other packets: {len(given.hashes)} became {len(made.hashes)}")
    # Times in ticks that are no whole samples were rounded by whoever wrote the source.
    exact = (given.tick * given.rate).denominator == 1
    slack = Fraction(0) if exact else max(given.tick, Fraction(1, given.rate))
    places = zip(given.starts[:1] if pcm else given.starts, made.starts, strict=False)
    late = max((abs(b - a - shift) for a, b in places), default=Fraction(0))
    if late > slack:
        problems.append(f"up to {float(late):.6f} s away from its place beside the picture")
    return problems
