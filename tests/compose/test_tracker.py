"""Which detection belongs to which track."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.compose.tracker import (
    ASPECT_MEASURED_STD,
    ASPECT_STD,
    ASPECT_VELOCITY_STD,
    POSITION_STD,
    VELOCITY_STD,
    TrackerSettings,
    TrackerState,
    update,
)
from shared.faces import Face
from tests.compose.scenes import Actor, between, face, seen, still, walk

SETTINGS = TrackerSettings()


def track(
    actors: Sequence[Actor], seconds: float, every_s: float = 1 / 6, score: float = 0.9
) -> list[TrackerState]:
    """States after each detection."""
    state, states = TrackerState(), []
    for i in range(round(seconds / every_s) + 1):
        t = i * every_s
        found = [f.model_copy(update={"score": score}) for f in seen(actors, t)]
        state = update(state, found, t, SETTINGS)
        states.append(state)
    return states


def ids(state: TrackerState) -> list[int]:
    return [t.id for t in state.tracks if t.seen_s == state.time_s]


def reference_filter(
    measured: Sequence[tuple[float, float, float, float]],
) -> npt.NDArray[np.float64]:
    """ByteTrack's eight-dimensional filter, one nominal frame per measurement."""
    x = np.r_[np.array(measured[0]), np.zeros(4)]
    h = x[3]
    p, v = POSITION_STD * h, VELOCITY_STD * h
    cov = np.diag(
        np.square([2 * p, 2 * p, ASPECT_STD, 2 * p, 10 * v, 10 * v, ASPECT_VELOCITY_STD, 10 * v])
    )
    move, look = np.eye(8), np.eye(4, 8)
    move[:4, 4:] = np.eye(4)
    for z in measured[1:]:
        p, v = POSITION_STD * x[3], VELOCITY_STD * x[3]
        noise = np.diag(np.square([p, p, ASPECT_STD, p, v, v, ASPECT_VELOCITY_STD, v]))
        x, cov = move @ x, move @ cov @ move.T + noise
        p = POSITION_STD * x[3]
        seen_cov = look @ cov @ look.T + np.diag(np.square([p, p, ASPECT_MEASURED_STD, p]))
        gain = cov @ look.T @ np.linalg.inv(seen_cov)
        x, cov = x + gain @ (np.array(z) - look @ x), cov - gain @ seen_cov @ gain.T
    return np.asarray(x)


def test_four_small_filters_are_bytetracks_large_one() -> None:
    path = [(500 + 9.0 * i, 400 - 2.0 * i, 0.75, 200 + 1.5 * i) for i in range(12)]
    state = TrackerState()
    for i, (cx, cy, aspect, h) in enumerate(path):
        w = aspect * h
        found = Face(x=cx - w / 2, y=cy - h / 2, w=w, h=h, score=0.9)
        state = update(state, [found], i / 30, SETTINGS)
    (only,) = state.tracks
    mine = [a.x for a in (only.cx, only.cy, only.aspect, only.height)]
    mine += [a.v for a in (only.cx, only.cy, only.aspect, only.height)]
    assert np.allclose(mine, reference_filter(path), rtol=1e-9, atol=1e-9)


def test_a_track_keeps_its_id_while_it_moves() -> None:
    states = track([walk([(0, 200), (3, 1700)]), still(1000, 900)], 3)
    assert {tuple(ids(s)) for s in states[1:]} == {(1, 2)}


def test_people_who_pass_each_other_keep_their_ids() -> None:
    left, right = walk([(0, 300), (3, 1500)], y=450), walk([(0, 1500), (3, 300)], y=600)
    last = track([left, right], 3)[-1]
    assert {t.id: round(t.box.cx, -2) for t in last.tracks} == {1: 1500, 2: 300}


def test_who_is_hidden_shortly_keeps_the_id() -> None:
    def hidden(t: float) -> tuple[float, float, float] | None:
        return None if 1 < t < 1.7 else (300 + 200 * t, 500.0, 200.0)

    assert ids(track([hidden], 3)[-1]) == [1]


def test_who_is_away_for_longer_comes_back_as_a_new_track() -> None:
    state = track([between(still(500), 0, 1), between(still(500), 4, 9)], 5)[-1]
    assert ids(state) == [2]


def test_a_doubtful_detection_keeps_a_track_and_founds_none() -> None:
    sure, doubtful = face((500, 500, 200), 0.9), face((505, 500, 200), 0.35)
    state = TrackerState()
    for i, found in enumerate((sure, sure, doubtful, doubtful)):
        state = update(state, [found], i / 6, SETTINGS)
    assert ids(state) == [1]
    assert update(TrackerState(), [doubtful], 0, SETTINGS).tracks == ()


def test_a_track_seen_once_is_dropped_at_once() -> None:
    state = update(TrackerState(), [face((500, 500, 200))], 0, SETTINGS)
    assert update(state, [], 1 / 6, SETTINGS).tracks == ()


def test_small_faces_that_move_more_than_their_size_between_detections_keep_their_ids() -> None:
    # 24 px every sixth of a second at a face of 16 px: no overlap at all
    states = track([walk([(0, 100), (3, 532)], y=100, h=16), still(900, 100, 16)], 3)
    assert {tuple(ids(s)) for s in states} == {(1, 2)}


def test_a_jump_across_the_frame_is_another_track() -> None:
    states = track([between(still(300), 0, 1), between(still(1500), 1, 9)], 2)
    assert ids(states[-1]) == [2]


@given(
    st.lists(
        st.lists(
            st.tuples(st.floats(-200, 2100), st.floats(-200, 1300), st.floats(1, 1200)), max_size=40
        ),
        max_size=6,
    )
)
def test_any_detections_give_a_bounded_state_with_ids_used_once(
    frames: list[list[tuple[float, float, float]]],
) -> None:
    state, known = TrackerState(), set[int]()
    for i, found in enumerate(frames):
        before = state
        state = update(state, [face(f) for f in found], i / 6, SETTINGS)
        now = {t.id for t in state.tracks}
        assert len(now) == len(state.tracks) <= SETTINGS.max_tracks
        assert not (now - {t.id for t in before.tracks}) & known
        assert all(np.isfinite(list(t.box)).all() for t in state.tracks)
        known |= now


@pytest.mark.parametrize("every_s", [1 / 30, 1 / 10, 1 / 3])
def test_how_often_faces_are_looked_for_makes_no_other_tracks(every_s: float) -> None:
    states = track([walk([(0, 300), (4, 1500)]), still(1700, 900)], 4, every_s)
    assert [t.id for t in states[-1].tracks] == [1, 2]


def test_the_only_face_left_is_the_only_track_left_even_after_a_jump() -> None:
    settings = TrackerSettings()
    stays, jumps = (
        Face(x=600, y=100, w=50, h=60, score=0.9),
        Face(x=100, y=300, w=40, h=48, score=0.9),
    )
    state = update(TrackerState(), [stays, jumps], 0.0, settings)
    up = jumps.model_copy(update={"y": 300 - 3.5 * 48, "score": 0.55})
    state = update(state, [stays, up], 1 / 6, settings)
    assert [track.id for track in state.tracks] == [1, 2]
    assert all(track.hits == 2 for track in state.tracks)
    far = up.model_copy(update={"x": 900})
    state = update(state, [stays, far], 2 / 6, settings)
    assert [track.hits for track in state.tracks] == [2, 3]  # ids go by x: the jumper is 1
