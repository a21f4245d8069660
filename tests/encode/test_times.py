"""Times of the result, by arithmetic alone."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.encode.times import (
    DecodeClock,
    SoundClock,
    decode_times,
    display_durations,
    movie_timescale,
    reorder_depth,
    start_shift,
)
from shared.errors import ErrorCode, PermanentError

ascending = st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=60, unique=True).map(
    sorted
)


def _reordered(shown: list[int], group: int) -> list[int]:
    """Decode order of a coder that sends the last of each `group` frames first, after the first."""
    order = shown[:1]
    for start in range(1, len(shown), group):
        part = shown[start : start + group]
        order += [part[-1], *part[:-1]]
    return order


@given(shown=ascending, group=st.integers(1, 5))
def test_decode_times_increase_strictly_and_never_pass_the_display_time(
    shown: list[int], group: int
) -> None:
    pts = _reordered(shown, group)
    dts = decode_times(pts)
    assert len(dts) == len(pts)
    assert all(earlier < later for earlier, later in itertools.pairwise(dts))
    assert all(early <= late for early, late in zip(dts, pts, strict=True))


@given(shown=ascending, group=st.integers(1, 5), cut=st.integers(1, 8))
def test_decode_times_chunk_by_chunk_are_those_of_the_whole(
    shown: list[int], group: int, cut: int
) -> None:
    chunks = [_reordered(shown[at : at + cut], group) for at in range(0, len(shown), cut)]
    whole = [pts for chunk in chunks for pts in chunk]
    depth = reorder_depth(whole)
    clock = DecodeClock(depth)
    pieces = [dts for chunk in chunks for dts in clock.times(chunk)]
    assert pieces[depth:] == decode_times(whole)[depth:]
    assert all(earlier < later for earlier, later in itertools.pairwise(pieces))


def test_known_decode_times() -> None:
    assert decode_times([0, 4, 2, 1, 3]) == [-2, -1, 0, 1, 2]
    assert decode_times([7]) == [7]
    assert decode_times([]) == []


@pytest.mark.parametrize("pts", [[0, 0], [0, 2, 1, 2]])
def test_a_time_that_comes_twice_fails_the_check(pts: list[int]) -> None:
    with pytest.raises(PermanentError) as caught:
        decode_times(pts)
    assert caught.value.code is ErrorCode.CHECK_FAILED


def test_a_chunk_that_runs_back_fails_the_check() -> None:
    clock = DecodeClock(0)
    clock.times([5, 6])
    with pytest.raises(PermanentError, match="wrong order"):
        clock.times([3, 4])


def test_more_reordering_than_declared_fails_the_check() -> None:
    with pytest.raises(PermanentError, match="reordered"):
        DecodeClock(1).times([0, 4, 2, 1, 3])


def test_a_frame_is_shown_until_the_next_and_the_last_until_the_end() -> None:
    assert display_durations([0, 30, 10], 37) == [10, 7, 20]


@given(
    start=st.fractions(-5, 5, max_denominator=90000),
    rates=st.lists(st.sampled_from([90000, 44100, 48000, 1000, 30000]), min_size=1, max_size=3),
)
def test_a_shift_makes_the_video_start_at_zero_or_just_after(
    start: Fraction, rates: list[int]
) -> None:
    shift = start_shift([start], start, rates)
    assert start + shift >= 0
    assert all((shift * rate).denominator == 1 for rate in rates)
    assert shift == 0 or shift + start < 1


def test_a_clock_that_stands_at_hours_is_set_back_by_whole_seconds() -> None:
    starts = [Fraction(36000) + Fraction(1, 2), Fraction(36000) + Fraction(1, 3)]
    assert start_shift(starts, starts[0], [90000]) == -36000
    assert start_shift([Fraction(1, 2)], Fraction(1, 2), [90000]) == 0


def test_edit_lists_count_finely_enough_for_every_start() -> None:
    starts = [Fraction(511, 1000), Fraction(17653, 7350)]
    scale = movie_timescale([90000, 44100], starts)
    assert scale == 4_410_000
    assert all((start * scale).denominator == 1 for start in starts)
    assert movie_timescale([100], [Fraction(0)]) == 1000
    coarse = movie_timescale([2**31 - 1, 44100], [Fraction(1, 44100)])
    assert coarse == 44100


def test_sound_counted_in_samples_keeps_its_places_gaps_included() -> None:
    clock = SoundClock(48000, Fraction(1, 48000), 1024)
    stated = [-1024, 0, 1024, 2050, 9000]
    assert [clock.place(Fraction(at, 48000)) for at in stated] == stated


def test_sound_rounded_to_milliseconds_follows_without_gaps_and_without_drift() -> None:
    clock = SoundClock(44100, Fraction(1, 1000), 1024)
    exact = [index * 1024 for index in range(5000)]
    rounded = [Fraction(round(Fraction(at * 1000, 44100)), 1000) for at in exact]
    assert [clock.place(at) for at in rounded] == exact


def test_a_gap_in_rounded_sound_is_kept() -> None:
    clock = SoundClock(44100, Fraction(1, 1000), 1024)
    clock.place(Fraction(0))
    assert clock.place(Fraction(1)) == 44100


def test_packets_without_a_time_of_their_own_follow_their_predecessor() -> None:
    clock = SoundClock(48000, Fraction(1, 90000), 1152)
    assert [clock.place(at) for at in (Fraction(1, 2), None, None)] == [24000, 25152, 26304]
    unknown = SoundClock(48000, Fraction(1, 48000), 0)
    assert [unknown.place(Fraction(0)) for _ in range(3)] == [0, 1, 2]
