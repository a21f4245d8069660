"""Pure arithmetic of times in the result; integers and fractions only, never floats.

Video keeps the source's ticks. Sound is counted in samples, since that is what a sound track of
mp4 and mov counts in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise

from shared.errors import ErrorCode, PermanentError

LARGEST_TIMESCALE = 2**31 - 1
"""mp4 stores 32 bits; muxer and players read them as signed."""

SMALLEST_MOVIE_TIMESCALE = 1000
"""What muxers use by default; no reason to be coarser."""

LATEST_START = Fraction(10)
"""Seconds. A source that starts later (a broadcast's clock may stand at hours) is moved to its
first second: players would show that long a blank."""


def reorder_depth(pts_in_decode_order: Sequence[int]) -> int:
    """Frames that a decoder must hold back: the largest lead of decode over display position."""
    position = {pts: index for index, pts in enumerate(sorted(pts_in_decode_order))}
    return max((i - position[pts] for i, pts in enumerate(pts_in_decode_order)), default=0)


def decode_times(pts_in_decode_order: Sequence[int]) -> list[int]:
    """Strictly increasing dts <= pts, for any frame rate, constant or not.

    Raises PermanentError CHECK_FAILED when two frames have the same time.
    """
    return DecodeClock(reorder_depth(pts_in_decode_order)).times(pts_in_decode_order)


class DecodeClock:
    """The same over chunks that come one by one; holds no more than `depth` times.

    The i-th frame decoded gets the time of the (i - depth)-th frame shown: times of frames are
    the only ticks sure to be strictly increasing, and that delay is the least with dts <= pts.
    Chunks must be whole closed GOPs, in order. The first `depth` times are extrapolated backwards
    with the distance of the first two frames.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._waiting: list[int] = []
        self._last: int | None = None

    def times(self, pts_in_decode_order: Sequence[int]) -> list[int]:
        """Decode times of the next chunk's frames.

        Raises PermanentError CHECK_FAILED when times repeat, run back into the chunk before, or
        the frames are reordered more than `depth` allows.
        """
        shown = sorted(pts_in_decode_order)
        if not shown:
            return []
        before = [] if self._last is None else [self._last]
        self._check_increasing(before + shown)
        if self._last is None:
            step = shown[1] - shown[0] if len(shown) > 1 else 1
            self._waiting = [shown[0] - step * back for back in range(self._depth, 0, -1)]
        self._last = shown[-1]
        self._waiting += shown
        count = len(shown)
        times, self._waiting = self._waiting[:count], self._waiting[count:]
        if any(dts > pts for dts, pts in zip(times, pts_in_decode_order, strict=True)):
            raise PermanentError(
                ErrorCode.CHECK_FAILED,
                f"The encoder reordered frames by more than the {self._depth} it declares; encode"
                " the job again with another preset.",
            )
        return times

    @staticmethod
    def _check_increasing(shown: Sequence[int]) -> None:
        for earlier, later in pairwise(shown):
            if later <= earlier:
                raise PermanentError(
                    ErrorCode.CHECK_FAILED,
                    f"Frame times do not increase: {later} follows {earlier}; chunks are in the"
                    " wrong order or a frame was encoded twice.",
                )


def display_durations(pts_in_decode_order: Sequence[int], end: int) -> list[int]:
    """How long each frame is shown, in ticks: until the next one, the last until `end`."""
    shown = sorted(pts_in_decode_order)
    following = dict(zip(shown, [*shown[1:], end], strict=True))
    return [following[pts] - pts for pts in pts_in_decode_order]


def start_shift(
    starts: Sequence[Fraction], video_start: Fraction, rates: Iterable[int]
) -> Fraction:
    """Seconds to add to every time of the result; 0 for all but odd sources.

    mp4 shows nothing before time 0, so a video that starts there is moved up, by the least amount
    that is whole in all `rates` (ticks per second of the tracks). One that starts late is moved
    down, by whole seconds.
    """
    if video_start < 0:
        grid = math.gcd(*rates)
        return Fraction(math.ceil(-video_start * grid), grid)
    earliest = min(starts)
    if earliest >= LATEST_START:
        return Fraction(-math.floor(earliest))
    return Fraction(0)


def movie_timescale(rates: Sequence[int], starts: Iterable[Fraction]) -> int:
    """Ticks per second of the edit lists, such that starts and ends of all tracks are whole ticks.

    `rates` are the tracks' ticks per second. Where their common multiple takes over 31 bits, the
    one of the starts alone: a wrong start is a wrong A/V offset, a wrong end nothing one notices.
    Where even that does not fit (never seen), microseconds.
    """
    for exact in (math.lcm(*rates), math.lcm(*(start.denominator for start in starts))):
        if exact <= LARGEST_TIMESCALE:
            return exact * math.ceil(SMALLEST_MOVIE_TIMESCALE / exact)
    return 1_000_000


class SoundClock:
    """Gives packets of one sound stream their place, in samples.

    `rate` in samples per second, `tick` the source's seconds per tick, `packet_samples` the fixed
    number of samples of a packet or 0.

    Where the source counts in samples, places are the source's, exactly. Where its ticks are
    coarser or other than samples (milliseconds in Matroska, 90 kHz in MPEG), its times are
    rounded ones: a packet that continues the one before within a tick (or a sample, if longer)
    follows it without gap, as it did when it was recorded; any other goes to the nearest sample.
    The same as FFmpeg's av_rescale_delta, and drift-free: no packet is ever a tick off its time.
    """

    def __init__(self, rate: int, tick: Fraction, packet_samples: int) -> None:
        self._rate = rate
        self._packet_samples = packet_samples
        self._exact = tick * rate == 1
        self._slack = max(tick, Fraction(1, rate))
        self._last: int | None = None

    def place(self, stated: Fraction | None) -> int:
        """Place of the next packet, which the source says begins at `stated` seconds.

        Strictly increasing; packets without a time, or with that of their predecessor, follow it.
        """
        following = None if self._last is None else self._last + max(1, self._packet_samples)
        self._last = self._choose(stated, following)
        return self._last

    def _choose(self, stated: Fraction | None, following: int | None) -> int:
        if stated is None:
            return following or 0
        nearest = math.floor(stated * self._rate + Fraction(1, 2))
        if following is None or self._last is None:
            return nearest
        continues = abs(Fraction(following, self._rate) - stated) < self._slack
        if self._packet_samples and continues and not self._exact:
            return following
        return max(nearest, self._last + 1)
