"""Facts about thumbnails: what they show, and which chunks get one."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.encode.plan import THUMBNAILS, wants_thumbnail
from services.encode.thumbnails import thumbnail
from shared.jobs import ColorTags
from shared.media.layout import FrameLayout, PixelFormat, Plane
from tests.builders import output_plan, source_info

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
STUDIO = {
    # 8-bit codes of ITU-R BT.601 and BT.709: 75 % bars would do as well, these are easier to check.
    6: {RED: (81, 90, 240), GREEN: (145, 54, 34), BLUE: (41, 240, 110)},
    1: {RED: (63, 102, 240), GREEN: (173, 42, 26), BLUE: (32, 240, 118)},
}


def flat(layout: FrameLayout, y: int, u: int, v: int) -> Plane:
    """One frame of one colour."""
    memory = np.empty(layout.frame_bytes, np.uint8)
    planes = layout.planes(memory)
    planes[0][:] = y
    if layout.format is PixelFormat.NV12:
        planes[1][:, 0::2], planes[1][:, 1::2] = u, v
    else:
        planes[1][:], planes[2][:] = u, v
    return memory


def seen(layout: FrameLayout, color: ColorTags, code: tuple[int, int, int]) -> tuple[int, int, int]:
    """What a viewer of JPEGs shows: the middle pixel, RGB."""
    data = thumbnail(layout.planes(flat(layout, *code)), layout, color)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    b, g, r = picture[picture.shape[0] // 2, picture.shape[1] // 2]
    return int(r), int(g), int(b)


@pytest.mark.parametrize("pixels", PixelFormat)
@pytest.mark.parametrize("matrix", STUDIO)
def test_colours_are_those_of_the_video(matrix: int, pixels: PixelFormat) -> None:
    layout = FrameLayout(width=640, height=360, format=pixels)
    for colour, code in STUDIO[matrix].items():
        assert seen(layout, ColorTags(matrix=matrix), code) == pytest.approx(colour, abs=4)


def test_untagged_pictures_are_taken_for_what_players_take_them_for() -> None:
    small, large = FrameLayout(width=640, height=360), FrameLayout(width=1920, height=1080)
    assert seen(small, ColorTags(), STUDIO[6][GREEN]) == pytest.approx(GREEN, abs=4)
    assert seen(large, ColorTags(), STUDIO[1][GREEN]) == pytest.approx(GREEN, abs=4)


def test_white_and_black_follow_from_the_range() -> None:
    layout, full = FrameLayout(width=640, height=360), ColorTags(full_range=True)
    assert seen(layout, ColorTags(), (235, 128, 128)) == pytest.approx(WHITE, abs=2)
    assert seen(layout, ColorTags(), (16, 128, 128)) == pytest.approx(BLACK, abs=2)
    assert seen(layout, full, (255, 128, 128)) == pytest.approx(WHITE, abs=2)
    assert seen(layout, full, (0, 128, 128)) == pytest.approx(BLACK, abs=2)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1920, 1080), (320, 180)), ((1080, 1920), (320, 569)), ((64, 64), (64, 64))],
)
def test_it_is_small_and_of_the_videos_shape(size: tuple[int, int], shown: tuple[int, int]) -> None:
    layout = FrameLayout(width=size[0], height=size[1])
    data = thumbnail(layout.planes(flat(layout, 90, 128, 128)), layout, ColorTags())
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[1::-1] == shown


TICKS, FRAMES, PER_SEGMENT = 512, 32, 8
"""25 frames a second in chunks of 1.28 s, segments of 10.24 s."""


def wanted(length_s: float, promised_s: float | None, start_s: float = 0.0) -> list[float]:
    """When the chunks that get a thumbnail begin, in a video that is as long."""
    source = source_info(duration_s=promised_s)
    origin, times = int(start_s * 12800), []
    for number in range(int(length_s * 25 / FRAMES) + 1):
        first = origin + number * FRAMES * TICKS
        pts = range(first, first + FRAMES * TICKS, TICKS)
        if wants_thumbnail(source, output_plan(), *divmod(number, PER_SEGMENT), pts):
            times.append((first - origin) / 12800)
    return times


@settings(max_examples=10, deadline=None)
@given(length_s=st.floats(0.1, 5000), start_s=st.floats(-5, 90_000))
def test_a_video_of_any_length_has_up_to_200_evenly_spread(length_s: float, start_s: float) -> None:
    times = wanted(length_s, length_s, start_s)
    assert 1 <= len(times) <= THUMBNAILS + 2 <= 200
    spacing_s = max(length_s / THUMBNAILS, FRAMES / 25)
    assert all(b - a <= 2 * spacing_s + 1.3 for a, b in pairwise(times))
    assert times[0] == 0
    assert length_s - times[-1] <= spacing_s + 1.3


@pytest.mark.parametrize(("length_s", "promised_s"), [(20_000, None), (9000, 0.04), (9000, 60)])
def test_a_header_that_lies_about_the_length_can_not_ask_for_more_than_some_hundreds(
    length_s: float, promised_s: float | None
) -> None:
    assert 200 < len(wanted(length_s, promised_s)) < 1000
