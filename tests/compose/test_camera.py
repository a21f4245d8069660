"""How the virtual camera frames and moves."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.compose import camera as cam
from services.compose.camera import CameraSettings, Framing, Subject
from shared.jobs import Rect
from tests.compose.scenes import Run, noisy, output, side_by_side, source, stacked, still, walk

SETTINGS = CameraSettings()
LIMITS = Framing(frame_w=1920, frame_h=1080, aspect=960 / 1080, min_h=360.0, max_h=1080.0)


def wish(x: float, y: float = 500.0, h: float = 200.0) -> cam.Wish:
    return cam.wish(Subject(x, y, 0.75 * h, h), None, LIMITS, SETTINGS)


def test_the_eyes_are_at_two_fifths_of_the_view_and_the_face_in_its_middle() -> None:
    x, y, w, h = Run([still(500), still(1400)], 1).views[0][0]
    assert h == pytest.approx(640, abs=1)
    assert x + w / 2 == pytest.approx(500, abs=1)
    eyes = 500 + (cam.EYES_IN_BOX - 0.5) * 200
    assert (eyes - y) / h == pytest.approx(0.40, abs=0.01)


def test_detection_noise_of_two_px_moves_the_view_by_less_than_half_a_px_per_second() -> None:
    run = Run([noisy(still(500), 2), noisy(still(1400), 2, seed=2)], 12)
    for place in (0, 1):
        path = [v[place] for v in run.views[60:]]
        travelled = sum(
            max(abs(p - q) for p, q in zip(a, b, strict=True)) for a, b in pairwise(path)
        )
        assert travelled / (len(path) / 30) < 0.5


def test_the_camera_rests_while_the_person_stays_in_the_dead_zone() -> None:
    sway = walk([(1, 500), (2, 530), (3, 470), (4, 500)])
    run = Run([sway, still(1400)], 5)
    assert len({v[0] for v in run.views}) == 1


def test_the_camera_follows_a_walk_and_keeps_the_face_in_view() -> None:
    # 450 px/s at a face of 200 px is half a metre per second
    run = Run([walk([(1, 300), (3, 1200)]), still(1600)], 6)
    for t, views in zip(run.times, run.views, strict=True):
        x, _, w, _ = views[0]
        at = 300 + 450 * min(max(t - 1, 0), 2)
        assert x + 0.1 * w <= at <= x + 0.9 * w
    x, _, w, _ = run.views[-1][0]
    assert x + w / 2 == pytest.approx(1200, abs=SETTINGS.dead_x * 640)
    assert run.cuts == []


def test_a_camera_that_stops_does_not_overshoot_visibly() -> None:
    run = Run([walk([(1, 300), (3, 1200)]), still(1600)], 6)
    assert max(v[0][0] + v[0][2] / 2 for v in run.views) < 1200 + 0.1 * 640


@given(
    places=st.lists(st.tuples(st.floats(0, 1920), st.floats(0, 1080)), min_size=1, max_size=12),
    dt=st.sampled_from([1 / 120, 1 / 30, 1 / 24, 1 / 10]),
)
def test_speed_and_acceleration_are_bounded(places: list[tuple[float, float]], dt: float) -> None:
    camera = cam.start(wish(960), LIMITS, SETTINGS)
    size = math.exp(camera.zoom.pos)
    top = SETTINGS.speed * size
    most = 2 * top * SETTINGS.frequency / math.e
    for x, y in places:
        for _ in range(8):
            after = cam.step(camera, wish(x, y), dt, LIMITS, SETTINGS)
            for a, b in ((camera.x, after.x), (camera.y, after.y)):
                assert abs(b.vel) <= top * 1.001
                assert abs(b.pos - a.pos) <= top * dt * 1.001
                assert abs(b.vel - a.vel) <= most * dt * 1.001 + size * 2e-4
            camera = after


def test_motion_does_not_depend_on_the_frame_rate() -> None:
    def ends(fps: int) -> list[float]:
        camera, path = cam.start(wish(500), LIMITS, SETTINGS), []
        for i in range(1, 2 * fps + 1):
            camera = cam.step(camera, wish(900, 600, 260), 1 / fps, LIMITS, SETTINGS)
            if i % (fps // 10) == 0:
                path.append(cam.view(camera, LIMITS).x)
        return path

    for a, b in zip(ends(20), ends(120), strict=True):
        assert a == pytest.approx(b, abs=20)
    assert ends(20)[-1] == pytest.approx(ends(120)[-1], abs=3)


def test_a_long_gap_in_time_leaves_the_camera_at_rest_on_its_goal() -> None:
    camera = cam.step(cam.start(wish(500), LIMITS, SETTINGS), wish(900), 60.0, LIMITS, SETTINGS)
    assert camera.x.pos == pytest.approx(900, abs=1)
    assert camera.x.vel == pytest.approx(0, abs=1)


@given(
    frame=st.tuples(st.integers(32, 4096), st.integers(32, 2304)),
    tile=st.tuples(st.integers(16, 1920), st.integers(16, 1920)),
    pixel=st.sampled_from([(1, 1), (4, 3), (8, 9), (64, 45), (0, 1)]),
    upscale=st.sampled_from([1.0, 3.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_views_stay_in_the_frame_in_the_shape_of_their_tile(
    frame: tuple[int, int],
    tile: tuple[int, int],
    pixel: tuple[int, int],
    upscale: float,
    seed: int,
) -> None:
    w, h = tile[0] * 2, tile[1] * 2
    src = source(*frame, sample_aspect=pixel)
    out = output(2 * w, h, (Rect(x=0, y=0, w=w, h=h), Rect(x=w, y=0, w=w, h=h)))
    chosen = CameraSettings(max_upscale=upscale)
    limits = cam.framing(src, out, 0, chosen)
    rng = random.Random(seed)
    camera = cam.resting(cam.default_view(limits, seed % 2))
    for _ in range(40):
        size = rng.uniform(0.02, 0.9) * frame[1]
        at = Subject(
            rng.uniform(-0.2, 1.2) * frame[0],
            rng.uniform(-0.2, 1.2) * frame[1],
            size,
            size,
            rng.uniform(-1, 1) * frame[0],
        )
        wanted = cam.wish(at, None, limits, chosen)
        camera = cam.step(camera, wanted, rng.uniform(0, 0.3), limits, chosen)
        v = cam.view(camera, limits)
        assert v.x >= 0
        assert v.y >= 0
        assert v.x + v.w <= frame[0]
        assert v.y + v.h <= frame[1]
        across = pixel[0] / pixel[1] if pixel[0] else 1.0
        shape = w / h / across
        # a view is a multiple of 1/256 px, which only shows in tiny ones
        assert abs(v.w / v.h / shape - 1) < 1e-3 + 1 / 256 / min(v.w, v.h)


def test_a_small_face_is_enlarged_no_more_than_the_limit() -> None:
    run = Run([still(500, 500, 30), still(1400, 500, 30)], 1)
    assert run.views[0][0][3] == pytest.approx(1080 / 3)


def test_a_huge_face_is_shown_as_the_largest_view_that_fits() -> None:
    run = Run([still(500, 500, 900), still(1400, 500, 900)], 1, out=stacked(1920, 1080))
    x, _, w, h = run.views[0][0]
    assert (x, w) == (0.0, 1920.0)
    assert w / h == pytest.approx(1920 / 540, rel=1e-3)


def test_pixels_that_are_not_square_come_out_square() -> None:
    src = source(720, 576, sample_aspect=(16, 11))
    _, _, w, h = Run([still(200, 250, 100), still(500, 250, 100)], 1, src=src).views[0][0]
    assert w * 16 / 11 / h == pytest.approx(960 / 1080, rel=1e-3)


def test_half_a_neighbours_face_is_kept_out_of_view() -> None:
    x, _, w, _ = Run([still(700), still(1000)], 1).views[0][0]
    neighbour = 1000 - 0.75 * 200 / 2
    assert x + w <= neighbour + 1
    assert x + 0.2 * w <= 700 <= x + 0.8 * w


def test_a_swoop_at_the_start_is_spared_also_when_the_face_is_found_late() -> None:
    run = Run([lambda t: (500.0, 500.0, 200.0) if t > 0.3 else None, still(1400)], 2)
    assert run.views[0] == run.views[-1]


def test_tiles_of_two_sizes_have_views_of_two_shapes() -> None:
    out = output(1280, 720, (Rect(x=0, y=0, w=800, h=720), Rect(x=800, y=0, w=480, h=720)))
    a, b = Run([still(500), still(1400)], 1, out=out).views[0]
    assert a[2] / a[3] == pytest.approx(800 / 720, rel=1e-3)
    assert b[2] / b[3] == pytest.approx(480 / 720, rel=1e-3)


def test_side_by_side_views_of_a_small_frame_are_its_halves_at_least() -> None:
    run = Run([still(16, 16, 8)], 0.2, src=source(32, 32), out=side_by_side())
    assert all(v[2] > 0 for pair in run.views for v in pair)
