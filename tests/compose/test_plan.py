"""Whom the two tiles show, and when that changes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from services.compose.plan import BatchPlan, ComposeSettings, ComposeState, plan_batch
from shared.faces import BatchFaces
from tests.compose.scenes import (
    Actor,
    Run,
    Where,
    between,
    noisy,
    side_by_side,
    source,
    stacked,
    still,
    walk,
)

LEFT, RIGHT = 500.0, 1400.0


def test_the_left_person_gets_the_first_tile_and_the_right_one_the_second() -> None:
    run = Run([still(RIGHT), still(LEFT)], 2)
    assert run.centre(0, 1.0) == pytest.approx(LEFT, abs=5)
    assert run.centre(1, 1.0) == pytest.approx(RIGHT, abs=5)
    assert run.cuts == []


def test_stacked_tiles_keep_the_order_left_before_right() -> None:
    run = Run([still(RIGHT), still(LEFT)], 2, out=stacked())
    assert run.centre(0, 1.0) == pytest.approx(LEFT, abs=5)
    assert run.centre(1, 1.0) == pytest.approx(RIGHT, abs=5)


def test_people_who_change_sides_swap_once_after_margin_and_dwell() -> None:
    one = walk([(2, LEFT), (4, RIGHT)], y=480)
    two = walk([(2, RIGHT), (4, LEFT)], y=620)
    run = Run([one, two], 7)
    before, after = run.persons_at(1.9), run.persons_at(7)
    assert after == (before[1], before[0])
    swaps = [t for (t, a), (_, b) in zip(run.persons[1:], run.persons, strict=False) if a != b]
    assert len(swaps) == 1
    # They pass each other at 3 s and are 10 % of the width (192 px) apart 0.21 s later.
    assert 3.21 + 0.5 <= swaps[0] <= 3.21 + 0.5 + 0.6
    assert run.centre(0, 6.9) == pytest.approx(LEFT, abs=60)


def test_a_swap_is_a_hard_cut_of_both_cameras() -> None:
    run = Run([walk([(2, LEFT), (4, RIGHT)], y=480), walk([(2, RIGHT), (4, LEFT)], y=620)], 7)
    (cut,) = run.cuts
    i = round(cut * 30)
    for place in (0, 1):
        jump = abs(run.views[i][place][0] - run.views[i - 1][place][0])
        assert jump > 300
    # and to exactly where the other camera was
    assert run.views[i][0][0] == pytest.approx(run.views[i - 1][1][0], abs=60)


def test_people_who_cross_and_come_back_within_the_dwell_do_not_swap() -> None:
    one = walk([(2, 850), (2.3, 1150), (2.6, 850)], y=300)
    two = walk([(2, 1050), (2.3, 800), (2.6, 1050)], y=800)
    run = Run([one, two], 5)
    assert {ids for _, ids in run.persons} == {run.persons[0][1]}


def test_people_side_by_side_within_the_margin_never_swap() -> None:
    one = walk([(1, 900), (2, 1000), (4, 1000)], y=300)
    two = walk([(1, 1000), (2, 900), (4, 900)], y=800)
    run = Run([one, two], 6)
    assert {ids for _, ids in run.persons} == {run.persons[0][1]}


def test_the_dwell_is_seconds_and_not_frames() -> None:
    actors = [walk([(2, LEFT), (4, RIGHT)], y=480), walk([(2, RIGHT), (4, LEFT)], y=620)]
    at = [Run(actors, 7, fps=fps, every=every).cuts for fps, every in ((15, 2), (60, 8))]
    assert len(at[0]) == len(at[1]) == 1
    assert at[0][0] == pytest.approx(at[1][0], abs=0.3)


def test_who_leaves_and_returns_gets_the_same_tile_and_identity_back() -> None:
    def away(t: float) -> tuple[float, float, float] | None:
        return None if 2 <= t < 6 else (RIGHT, 500.0, 200.0)

    run = Run([still(LEFT), away], 9)
    assert {ids for _, ids in run.persons} == {run.persons[0][1]}


def test_a_missing_person_keeps_the_last_view_which_opens_to_the_half_in_the_end() -> None:
    run = Run([still(LEFT), between(still(RIGHT), 0, 2)], 9)
    views = [right for _, right in run.views]
    assert set(views[50 : round(3.8 * 30)]) == {views[50]}
    assert views[-1] == pytest.approx((960, 0, 960, 1080), abs=1)
    steps = [abs(a[2] - b[2]) for a, b in pairwise(views)]
    assert max(steps) < 0.03 * 960
    assert run.cuts == []


def jumping(x: float, low: float, high: float, per_s: float) -> Actor:
    """Up and down as on a trampoline, `per_s` times a second."""

    def actor(t: float) -> Where:
        phase = (t * per_s) % 1.0
        return x, low + (high - low) * 4 * phase * (1 - phase), 120.0

    return actor


@pytest.mark.parametrize("size", [20, 32])
def test_who_jumps_about_is_held_by_a_wide_view_that_stands_still(size: int) -> None:
    jumper = jumping(500, 800, 400, 1.7)
    run = Run([jumper, still(RIGHT)], 8, sizes=(size,))
    for t, ((x, y, w, h), _) in zip(run.times, run.views, strict=True):
        at_x, at_y, _ = jumper(t) or (0, 0, 0)
        assert x < at_x < x + w
        assert y < at_y < y + h
    later = [left for (left, _), t in zip(run.views, run.times, strict=True) if t > 3]
    travel = sum(abs(a[1] + a[3] / 2 - b[1] - b[3] / 2) for a, b in pairwise(later))
    assert travel < 0.1 * 400 * 2 * 1.7 * 5
    assert run.cuts == []


def test_a_doubtful_face_tells_on_which_side_somebody_alone_belongs() -> None:
    alone = Run([still(800)], 3)
    assert alone.persons_at(2.9) == (1, 0)
    other = between(still(400, h=150), 0, 0.4)
    run = Run([still(800), other, between(still(420, 600, 150), 4, 99)], 8)
    assert run.persons_at(3.9) == (0, 1)
    assert run.persons_at(7.9) == (2, 1)
    assert run.cuts == []


def test_who_returns_elsewhere_takes_the_only_free_place_with_a_cut() -> None:
    there = between(still(RIGHT, h=90), 0, 2)
    here = between(still(1000, 400, h=90), 5, 99)
    run = Run([still(LEFT), there, here], 8)
    assert {ids for _, ids in run.persons} == {run.persons[0][1]}
    (cut,) = run.cuts
    assert 5.6 <= cut <= 6.0
    assert run.centre(1, 7.9) == pytest.approx(1000, abs=60)


def test_false_detections_of_half_a_second_change_nothing() -> None:
    calm = Run([still(LEFT)], 5)
    ghosts = [between(still(1300, 700, 150), 2.0, 2.5), between(still(200, 900, 90), 3.5, 3.9)]
    run = Run([still(LEFT), *ghosts], 5)
    assert run.views == calm.views


def test_a_false_detection_in_the_first_batch_is_nobody() -> None:
    run = Run([still(LEFT), between(still(1300, 700), 0.1, 0.5)], 3)
    assert {ids for _, ids in run.persons} == {(1, 0)}


def test_a_third_person_takes_no_place_while_both_are_there() -> None:
    run = Run([still(LEFT), still(RIGHT), between(still(960, 500, 220), 2, 99)], 8)
    assert {ids for _, ids in run.persons} == {run.persons[0][1]}


def test_a_much_larger_third_person_takes_the_place_of_the_smaller_one_in_time() -> None:
    extra = between(still(960, 500, 400), 2, 99)
    run = Run([still(LEFT), still(RIGHT, h=100), extra], 14)
    assert run.persons_at(3)[1] == run.persons[0][1][1]
    assert run.persons_at(14)[1] == 3
    assert run.persons_at(14)[0] == run.persons[0][1][0]


def test_one_person_gets_the_tile_of_her_half_and_the_other_shows_the_other_half() -> None:
    run = Run([still(RIGHT)], 2)
    assert run.persons_at(0) == (0, 1)
    assert {v[0] for v in run.views} == {(0.0, 0.0, 960.0, 1080.0)}


def test_without_anybody_both_halves_are_shown_and_nothing_moves() -> None:
    run = Run([], 2)
    assert set(run.views) == {((0.0, 0.0, 960.0, 1080.0), (960.0, 0.0, 960.0, 1080.0))}


def test_a_late_second_person_is_moved_in_on_from_the_wide_view_of_the_free_tile() -> None:
    run = Run([still(LEFT), between(still(RIGHT), 3, 99)], 8)
    assert run.cuts == []
    assert run.persons_at(3.5) == (1, 0)
    assert run.persons_at(3.9) == (1, 2)
    assert run.views[round(3.5 * 30)][1] == (960, 0, 960, 1080)
    assert run.centre(1, 7.9) == pytest.approx(RIGHT, abs=0.15 * 640)
    assert run.views[-1][1][3] == pytest.approx(640, rel=0.15)


def test_a_late_second_person_on_the_left_moves_the_first_to_the_right_tile() -> None:
    run = Run([still(800), between(still(200), 3, 99)], 6)
    assert run.persons_at(2.9) == (1, 0)
    assert run.persons_at(6) == (2, 1)
    assert len(run.cuts) == 1


def test_a_scene_cut_is_followed_at_once_by_new_people() -> None:
    before = [between(still(400, 300, 150), 0, 3), between(still(1000, 300, 150), 0, 3)]
    after = [between(still(900, 800, 300), 3, 99), between(still(1700, 750, 300), 3, 99)]
    run = Run([*before, *after], 6)
    (cut,) = run.cuts
    assert 3.0 <= cut <= 3.2
    assert run.persons_at(6) == (3, 4)
    assert run.centre(0, cut) == pytest.approx(900, abs=30)


def test_the_scene_of_one_person_that_cuts_to_another_follows_within_two_detections() -> None:
    run = Run([between(still(400, 300, 150), 0, 3), between(still(1600, 700, 200), 3, 99)], 5)
    (cut,) = run.cuts
    assert 3.0 <= cut <= 3.4
    assert run.persons_at(5) == (0, 2)


def test_the_first_frame_is_framed_already() -> None:
    run = Run([noisy(still(LEFT), 2), noisy(still(RIGHT), 2, seed=2)], 3)
    assert run.views[0] == run.views[-1]


def test_the_same_input_gives_the_same_plan() -> None:
    actors = [noisy(walk([(0, LEFT), (3, 900)]), 3), noisy(still(RIGHT), 3)]
    a, b = Run(actors, 4), Run(actors, 4)
    assert a.plans == b.plans
    assert a.state == b.state


@pytest.mark.parametrize("size", [1, 8, 13, 64])
def test_views_depend_on_batches_only_by_how_far_a_walk_is_foreseen(size: int) -> None:
    actors = [
        noisy(walk([(1, LEFT), (3, 900), (4, 700)]), 3),
        noisy(between(still(RIGHT), 0, 4), 3, seed=5),
    ]
    whole = Run(actors, 6, sizes=(32,), every=1)
    parts = Run(actors, 6, sizes=(32, size), every=1)
    assert parts.persons == whole.persons
    assert parts.cuts == whole.cuts
    for a, b in zip(parts.views, whole.views, strict=True):
        assert a[1] == b[1]
        assert tuple(a[0]) == pytest.approx(tuple(b[0]), abs=0.15 * 640)
    assert parts.state.persons == whole.state.persons
    assert parts.state.tracker == whole.state.tracker


def test_views_are_kept_in_whole_when_a_plan_goes_through_json() -> None:
    plan = Run([noisy(still(LEFT), 9), still(RIGHT)], 1).plans[0]
    assert BatchPlan.model_validate_json(plan.model_dump_json()) == plan
    assert len(plan.model_dump_json()) < 5_000


def test_the_people_of_a_job_are_counted_once_each() -> None:
    assert Run([], 1).state.people == 0
    assert Run([still(LEFT), between(still(RIGHT), 2, 99)], 4).state.people == 2


def test_the_state_survives_json_unchanged_and_stays_small() -> None:
    crowd = [noisy(still(150.0 + 160 * i, 200 + 60 * i, 120), 4, seed=i) for i in range(11)]
    run = Run(crowd, 4)
    text = run.state.model_dump_json()
    assert ComposeState.model_validate_json(text) == run.state
    assert run.state_bytes < 12_000
    assert Run([still(LEFT), still(RIGHT)], 4).state_bytes < 4_000


def test_lost_tracks_are_forgotten() -> None:
    ghosts = [between(still(100 + 180 * i, 300), 0.3 * i, 0.3 * i + 0.4) for i in range(10)]
    run = Run([still(960, 800, 100), *ghosts], 6)
    assert len(run.state.tracker.tracks) == 1


def test_identities_are_counted_per_job() -> None:
    assert Run([still(LEFT)], 1).persons == Run([still(LEFT)], 1).persons


def test_an_empty_batch_changes_nothing() -> None:
    state = ComposeState()
    after, plan = plan_batch(
        state, BatchFaces(frames=(), faces=()), [], source(), side_by_side(), ComposeSettings()
    )
    assert after == state
    assert plan.views == ()


def test_a_batch_of_a_single_frame_is_planned() -> None:
    run = Run([still(LEFT), still(RIGHT)], 1 / 30)
    assert run.centre(0, 0) == pytest.approx(LEFT, abs=5)


@pytest.mark.parametrize("frames", [(0, 5), (1, 31), (0, 5, 5, 31), (0, 9, 4, 31)])
def test_detections_that_do_not_fit_the_batch_are_refused(frames: tuple[int, ...]) -> None:
    faces = BatchFaces(frames=frames, faces=tuple(() for _ in frames))
    with pytest.raises(ValueError, match="detections"):
        plan_batch(ComposeState(), faces, range(32), source(), side_by_side(), ComposeSettings())
