from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.decode.plan import Keyframe, batch_frames, batch_length, keeps, long_enough, may_cut
from shared.errors import ErrorCode, PermanentError
from shared.media.layout import FrameLayout

MS = Fraction(1, 1000)
HD = FrameLayout(width=1920, height=1080)


def kept(times: list[int], tick_s: Fraction, limit: float | None) -> list[int]:
    before = [None, *times]
    return [t for t, p in zip(times, before, strict=False) if keeps(t, p, tick_s, limit)]


def test_a_frame_shown_later_than_the_keyframe_but_before_it_in_the_file_forbids_the_cut() -> None:
    assert may_cut(Keyframe(pts=100, clean=True, latest_pts=99))
    assert not may_cut(Keyframe(pts=100, clean=True, latest_pts=100))
    assert not may_cut(Keyframe(pts=100, clean=False, latest_pts=None))


def test_length_is_measured_exactly() -> None:
    assert long_enough(0, 1000, MS, 1.0)
    assert not long_enough(0, 999, MS, 1.0)


def test_a_batch_holds_what_fits() -> None:
    assert batch_frames(HD.frame_bytes * 5 + 1, HD, 8) == 5
    assert batch_frames(HD.frame_bytes * 50, HD, 8) == 8


def test_a_slot_too_small_for_one_frame_says_what_to_raise() -> None:
    with pytest.raises(PermanentError, match=r"DUALFACE_ARENA_MIB") as caught:
        batch_frames(HD.frame_bytes - 1, HD, 8)
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_no_limit_keeps_every_frame() -> None:
    assert kept([0, 1, 2, 7], MS, None) == [0, 1, 2, 7]


@pytest.mark.parametrize("rounded", [round, int])
def test_millisecond_times_at_the_limit_lose_no_frame(rounded: Callable[[float], int]) -> None:
    times = [rounded(i * 1000 / 30) for i in range(300)]
    assert kept(times, MS, 30) == times


@pytest.mark.parametrize("tick_s", [MS, Fraction(1, 15360)])
@pytest.mark.parametrize("part", [2, 3, 5])
def test_a_limit_of_a_part_of_the_rate_keeps_every_nth_frame(part: int, tick_s: Fraction) -> None:
    times = [round(i / (30 * tick_s)) for i in range(60)]
    assert kept(times, tick_s, 30 / part) == times[::part]


@given(
    steps=st.lists(st.integers(1, 90), min_size=1, max_size=60),
    limit=st.floats(1, 60),
    start=st.integers(-1000, 1 << 40),
)
def test_never_more_frames_than_the_limit_allows(
    steps: list[int], limit: float, start: int
) -> None:
    times = [start]
    for step in steps:
        times.append(times[-1] + step)
    seconds = (times[-1] - times[0]) * MS
    assert len(kept(times, MS, limit)) <= seconds * Fraction(limit) + 2


@given(cut=st.integers(1, 59), limit=st.floats(1, 60))
def test_cutting_a_source_changes_no_decision(cut: int, limit: float) -> None:
    times = [33 * i for i in range(60)]
    whole = kept(times, MS, limit)
    later = [
        t for t, p in zip(times[cut:], times[cut - 1 :], strict=False) if keeps(t, p, MS, limit)
    ]
    assert [t for t in whole if t < times[cut]] + later == whole


@given(frames=st.integers(1, 5000), most=st.integers(1, 64))
def test_batches_of_a_segment_are_equally_long_but_for_one_frame(frames: int, most: int) -> None:
    lengths = [batch_length(frames, most, index) for index in range(-(-frames // most))]
    assert sum(lengths) == frames
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
    assert batch_length(frames, most, len(lengths)) == most
