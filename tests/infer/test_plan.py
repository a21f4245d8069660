from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.infer.plan import frames_to_detect, input_size, picture_size

counts = st.integers(min_value=1, max_value=500)
steps = st.integers(min_value=1, max_value=60)


@given(counts, steps)
def test_first_and_last_frame_of_a_batch_are_always_looked_at(count: int, every: int) -> None:
    frames = frames_to_detect(count, every)
    assert frames[0] == 0
    assert frames[-1] == count - 1


@given(counts, steps)
def test_gaps_are_at_most_every_and_differ_by_at_most_one(count: int, every: int) -> None:
    frames = frames_to_detect(count, every)
    gaps = [b - a for a, b in pairwise(frames)]
    assert all(1 <= gap <= every for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(counts, steps)
def test_no_more_frames_are_looked_at_than_needed(count: int, every: int) -> None:
    assert len(frames_to_detect(count, every)) == 1 + -(-(count - 1) // every)


@pytest.mark.parametrize(("count", "every"), [(0, 5), (5, 0), (-1, 1)])
def test_an_empty_batch_or_step_is_refused(count: int, every: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        frames_to_detect(count, every)


@given(
    st.integers(min_value=1, max_value=8192),
    st.integers(min_value=1, max_value=8192),
    st.sampled_from([256, 320, 640]),
)
def test_input_holds_the_picture_with_less_than_one_multiple_to_spare(
    width: int, height: int, side: int
) -> None:
    picture = picture_size(width, height, side)
    padded = input_size(width, height, side, 32)
    assert max(picture) == side
    assert all(outer % 32 == 0 for outer in padded)
    assert all(0 <= outer - inner < 32 for outer, inner in zip(padded, picture, strict=True))


def test_a_1080p_frame_is_seen_as_320_by_192() -> None:
    assert input_size(1920, 1080, 320, 32) == (320, 192)
    assert input_size(1080, 1920, 320, 32) == (192, 320)
