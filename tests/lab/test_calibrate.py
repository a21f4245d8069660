from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from services.infer.lab.calibrate import Found, choose, probe, read_image
from shared.errors import ErrorCode, PermanentError
from shared.models.precision import Condition
from tests.lab.toys import draw, draw_turned


def found(condition: Condition, count: int, start: int = 0) -> list[Found]:
    return [
        Found(Path("a.mp4"), start + i, float(i), condition, f"{start + i:064x}")
        for i in range(count)
    ]


MANY = [
    *found(Condition.NORMAL, 100),
    *found(Condition.PROFILE, 10, 100),
    *found(Condition.LOW_LIGHT, 3, 200),
]


def test_conditions_are_taken_in_turn_as_long_as_each_has_any() -> None:
    taken = Counter(one.condition for one in choose(MANY, 30, seed=1))
    assert taken == {Condition.LOW_LIGHT: 3, Condition.PROFILE: 10, Condition.NORMAL: 17}


def test_the_same_seed_takes_the_same_and_another_other_frames() -> None:
    assert choose(MANY, 30, seed=1) == choose(MANY, 30, seed=1)
    assert choose(MANY, 30, seed=1) != choose(MANY, 30, seed=2)


def test_what_was_chosen_keeps_its_order() -> None:
    indices = [one.index for one in choose(MANY, 30, seed=1)]
    assert indices == sorted(indices)


def test_equal_pictures_count_once() -> None:
    twice = [*found(Condition.NORMAL, 5), *found(Condition.NORMAL, 5)]
    assert len(choose(twice, 10, seed=1)) == 5


def test_fewer_than_wanted_are_all_taken() -> None:
    assert choose(MANY, 1000, seed=1) == MANY


def make_grey_steps(path: Path, frames: int, seconds: float) -> None:
    """A video whose frame i has luma 16 + i, keyframe every 10."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(frames) / Fraction(seconds))
        stream.width = stream.height = 32
        stream.options = {"g": "10", "preset": "ultrafast", "crf": "1"}
        for index in range(frames):
            luma = np.full((48, 32), 128, np.uint8)
            luma[:32] = 16 + index
            container.mux(stream.encode(av.VideoFrame.from_ndarray(luma, format="yuv420p")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("seconds", [4, 400])
def test_probes_are_spread_over_a_video_whether_it_is_decoded_whole_or_not(
    tmp_path: Path, seconds: float
) -> None:
    make_grey_steps(tmp_path / "a.mp4", 40, seconds)
    probes = list(probe(tmp_path / "a.mp4", 4))
    assert [one.time_s for one in probes] == pytest.approx(
        [seconds * at for at in (0.125, 0.375, 0.625, 0.875)], rel=0.1
    )
    levels = [float(one.picture.mean()) for one in probes]
    assert levels == sorted(levels)
    assert len(set(levels)) == 4


def test_an_image_is_one_probe(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", [(1, 1)])
    (one,) = probe(tmp_path / "a.png", 100)
    assert one.time_s is None
    assert one.picture.shape == (64, 64, 3)


@pytest.mark.parametrize("name", ["a.mp4", "a.png"])
def test_a_file_that_is_no_picture_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"neither")
    with pytest.raises(PermanentError) as caught:
        list(probe(tmp_path / name, 4))
    assert caught.value.code is ErrorCode.SOURCE_UNREADABLE
    assert name in caught.value.message
    assert "give videos or pictures" in caught.value.message


def test_a_damaged_picture_of_a_labelled_set_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"neither")
    with pytest.raises(PermanentError, match="take it out of the labels") as caught:
        read_image(tmp_path / "a.png", labelled=True)
    assert "videos" not in caught.value.message


def test_labelled_pictures_are_read_as_stored_and_others_upright(tmp_path: Path) -> None:
    draw_turned(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (64, 40, 3)
    assert read_image(tmp_path / "a.jpg", labelled=True).shape == (40, 64, 3)
