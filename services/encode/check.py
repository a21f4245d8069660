"""Read the written result once more and compare it with what should be in it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from services.encode.descriptions import describe, described
from services.encode.sound import SoundDigest, SoundFacts
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model, OutputPlan


class CheckReport(Model):
    """What was found. `duration_s` of the picture."""

    frames: int
    keyframes: int
    sound_packets: int
    duration_s: float


def check_result(
    path: Path,
    expected_pts: Sequence[int],
    output: OutputPlan,
    sounds: Sequence[SoundFacts] = (),
    shift: Fraction = Fraction(0),
) -> CheckReport:
    """Demux the whole file and decode its first and last keyframe.

    `expected_pts` of every frame in display order, in ticks of the output's time base, and
    `sounds` in track order; all as they were before `shift` seconds were added (facts of sounds
    are taken after it). Raises PermanentError CHECK_FAILED that says what differs first.
    """
    try:
        with av.open(f"file:{path}") as result:
            video, audio = _streams(result, len(sounds))
            seen = _Video(Fraction(video.time_base or 1))
            digests = _read(result, video, audio, seen, sounds)
            duration = (video.duration or 0) * seen.tick
            due = Fraction(*output.time_base)
            _compare_times(seen.times, seen.tick, expected_pts, due, shift)
            for found, wanted in zip(digests, sounds, strict=True):
                _compare_sound(found.facts(), wanted)
            _check_keyframes(video, seen, output)
    except (OSError, av.FFmpegError) as error:
        raise _failed(f"can't be read back ({error})") from error
    return CheckReport(
        frames=len(seen.times),
        keyframes=seen.keyframes,
        sound_packets=sum(digest.facts().packets for digest in digests),
        duration_s=float(duration),
    )


def _failed(difference: str) -> PermanentError:
    return PermanentError(
        ErrorCode.CHECK_FAILED,
        f"The result was not kept, since it {difference}; please report this with the source.",
    )


class _Video:
    """Video packets as they pass: times in ticks, the first and the last keyframe."""

    def __init__(self, tick: Fraction) -> None:
        self.tick = tick
        self.times = array("q")
        self.keyframes = 0
        self.first: Packet[Stream] | None = None
        self.last: Packet[Stream] | None = None
        self.header: bytes | None = None
        """Parameter sets of the last one, where they are not the track's first."""
        self._header: bytes | None = None

    def add(self, packet: Packet[Stream]) -> None:
        if packet.is_discard or packet.pts is None:
            raise _failed(f"would not show its packet {len(self.times)}")
        if not self.times and not packet.is_keyframe:
            raise _failed("does not begin with a keyframe")
        self.times.append(packet.pts)
        self._header = described(packet) or self._header
        if packet.is_keyframe:
            self.header = self._header
            self.keyframes += 1
            self.first = self.first or packet
            self.last = packet


def _streams(result: InputContainer, sounds: int) -> tuple[VideoStream, list[AudioStream]]:
    if len(result.streams.video) != 1 or len(result.streams.audio) != sounds:
        raise _failed(
            f"has {len(result.streams.video)} video and {len(result.streams.audio)} sound streams"
            f" instead of 1 and {sounds}"
        )
    return result.streams.video[0], list(result.streams.audio)


def _read(
    result: InputContainer,
    video: VideoStream,
    audio: Sequence[AudioStream],
    seen: _Video,
    sounds: Sequence[SoundFacts],
) -> list[SoundDigest]:
    digests = {
        stream.index: SoundDigest(wanted.stream, wanted.codec, wanted.rate)
        for stream, wanted in zip(audio, sounds, strict=True)
    }
    for packet in result.demux():
        if not packet.size:
            continue
        if packet.stream_index == video.index:
            seen.add(packet)
        elif packet.stream_index in digests:
            digest = digests[packet.stream_index]
            place = (packet.pts or 0) * packet.time_base * digest.rate
            digest.add(int(place), memoryview(packet))
    return list(digests.values())


def _compare_times(
    found: Sequence[int], tick: Fraction, expected: Sequence[int], due: Fraction, shift: Fraction
) -> None:
    """`found` times `tick` must be `expected` times `due` plus `shift`, exactly."""
    if len(found) != len(expected):
        raise _failed(f"has {len(found)} frames instead of {len(expected)}")
    # over one denominator, so that the loop is one of integers
    unit = math.lcm(tick.denominator, due.denominator, shift.denominator)
    a, b, c = int(tick * unit), int(due * unit), int(shift * unit)
    for index, (ours, wanted) in enumerate(zip(sorted(found), expected, strict=True)):
        if ours * a != wanted * b + c:
            at, instead = float(ours * tick), float(wanted * due + shift)
            raise _failed(f"shows frame {index} at {at:.6f} s instead of {instead:.6f} s")


def _compare_sound(found: SoundFacts, wanted: SoundFacts) -> None:
    """PCM has no packets of its own in mp4: there the bytes and their start must be equal."""
    where = f"in sound stream {wanted.stream}"
    if found.first != wanted.first:
        offset = (found.first - wanted.first) / wanted.rate
        raise _failed(f"begins {offset:+.6f} s off {where}")
    if found.size_bytes != wanted.size_bytes or found.payload_sha256 != wanted.payload_sha256:
        raise _failed(f"has other data {where}: {found.size_bytes} bytes of {wanted.size_bytes}")
    if wanted.codec.startswith("pcm_"):
        return
    if found.packets != wanted.packets or found.times_sha256 != wanted.times_sha256:
        raise _failed(f"has other times {where}: {found.packets} packets of {wanted.packets}")


def _check_keyframes(video: VideoStream, seen: _Video, output: OutputPlan) -> None:
    """Both must decode to the planned size, or parameter sets and chunks don't belong together."""
    for packet in (seen.first, seen.last):
        if packet is None:
            continue
        video.codec_context.flush_buffers()
        if packet is seen.last and seen.header is not None:
            describe(packet, seen.header)
        frames = [*video.codec_context.decode(packet), *video.codec_context.decode(None)]
        sizes = {(frame.width, frame.height) for frame in frames}
        if sizes != {(output.width, output.height)}:
            raise _failed(f"does not decode at frame time {packet.pts}")
