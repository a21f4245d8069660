from __future__ import annotations

from fractions import Fraction

from shared.media.timestamps import between, frame_ticks, generated_pts


def test_generated_times_gather_no_error() -> None:
    assert generated_pts(30000 * 3600, (30000, 1001), (1, 90000)) == 1001 * 3600 * 90000
    for index in range(1000):
        exact = index * Fraction(1001, 30000) * 1000
        assert abs(generated_pts(index, (30000, 1001), (1, 1000)) - exact) <= Fraction(1, 2)


def test_a_frame_lasts_at_least_one_tick() -> None:
    assert frame_ticks((25, 1), (1, 12800)) == 512
    assert frame_ticks((1000, 1), (1, 25)) == 1


def test_a_time_between_two_is_free() -> None:
    assert between(10, 20, 4) == 15
    assert between(10, 12, 4) == 11
    assert between(10, 11, 4) is None
    assert between(10, None, 4) == 14
