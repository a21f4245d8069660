"""The families through the real engine, with graphs whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.infer.engines.onnx_cpu import OnnxCpuDetector, fixed_input
from services.infer.plan import fitted_size
from shared.errors import ErrorCode, PermanentError
from shared.faces import SURE_SCORE, Face
from shared.media.layout import FrameLayout, PixelFormat, Planes
from shared.models import ModelEntry
from shared.models.catalogue import FAMILIES, Added
from tests.models.graphs import (
    CELL,
    Dim,
    bright_scrfd,
    bright_yolo,
    constant,
    save,
    scrfd_outputs,
    yolo_output,
)

SQUARE: tuple[Dim, ...] = (1, 3, 640, 640)


def entry(family: str, **changes: object) -> ModelEntry:
    usual = next(each.model_dump() for name, each in FAMILIES.items() if name == family)
    facts = {
        "name": "small",
        "family": family,
        "file": "small.onnx",
        "sha256": "0" * 64,
        "origin": Added(source="small.onnx"),
        "licence": "none",
    }
    return ModelEntry.model_validate(usual | facts | changes)


def black(layout: FrameLayout) -> Planes:
    """A frame of black, BT.601 limited range."""
    planes = layout.planes(np.full(layout.frame_bytes, 128, np.uint8))
    planes[0][:] = 16
    return planes


def detect(model: ModelEntry, path: Path, *sizes: tuple[int, int]) -> list[tuple[Face, ...]]:
    """Of one black frame each."""
    detector = OnnxCpuDetector(model, path)
    layouts = [FrameLayout(width=w, height=h) for w, h in sizes]
    return [detector.detect([black(each)], each)[0] for each in layouts]


def boxes(faces: Sequence[Face]) -> list[tuple[float, ...]]:
    return [(face.x, face.y, face.w, face.h) for face in faces]


def test_yolo_faces_come_in_px_of_the_frame_best_first_and_once_each(tmp_path: Path) -> None:
    eyes = (110.0, 90.0, 130.0, 90.0, 120.0, 100.0, 112.0, 110.0, 128.0, 110.0)
    doubtful = (500.0, 300.0, 40.0, 60.0, 0.25 + 1e-3)
    output = yolo_output(
        [
            (121.0, 100.0, 40.0, 60.0, 0.6),
            (300.0, 100.0, 40.0, 60.0, 0.24),  # too doubtful
            (120.0, 100.0, 40.0, 60.0, 0.9, *eyes),  # the first one, and surer
            doubtful,
        ]
    )
    path = constant(tmp_path / "small.onnx", [output], SQUARE)
    model = entry("yolov8-face", fixed_input=(640, 640))
    # 1280x720: 2 px of the frame to one of the input; 360x640: as it is
    large, small = detect(model, path, (1280, 720), (360, 640))
    assert boxes(large) == [(200, 140, 80, 120), (960, 540, 80, 120)]
    assert boxes(small) == [(100, 70, 40, 60), (480, 270, 40, 60)]
    assert large[0].landmarks == ((220, 180), (260, 180), (240, 200), (224, 220), (256, 220))
    assert small[0].landmarks[2] == (120, 100)
    # 0.5 is sure_score of the family
    assert large[0].score == pytest.approx(SURE_SCORE + 0.8 * (1 - SURE_SCORE))
    assert large[1].score == pytest.approx(doubtful[4] / 0.5 * SURE_SCORE)


def test_scrfd_faces_come_in_px_of_the_frame_whatever_the_order_of_outputs(tmp_path: Path) -> None:
    outputs = scrfd_outputs(640, 384)
    cell = 2 * (4 * (640 // 32) + 7)
    outputs["score", 32][0, cell + 1] = 0.8
    outputs["box", 32][0, cell + 1] = (1, 1.5, 1, 1.5)
    outputs["points", 32][0, cell + 1] = (-0.5, -0.5, 0.5, -0.5, 0, 0, -0.5, 0.5, 0.5, 0.5)
    shuffled = [outputs[key] for key in sorted(outputs, reverse=True)]
    path = constant(tmp_path / "small.onnx", shuffled, (1, 3, 384, 640))
    model = entry("scrfd", fixed_input=(640, 384))
    ((face,),) = detect(model, path, (1920, 1080))
    assert boxes([face]) == [(3 * (224 - 32), 3 * (128 - 48), 3 * 64, 3 * 96)]
    assert face.landmarks[2] == (3 * 224, 3 * 128)


def test_a_model_of_any_size_gets_pictures_in_the_shape_of_the_frame(tmp_path: Path) -> None:
    path = bright_scrfd(tmp_path / "small.onnx")
    layout = FrameLayout(width=1280, height=720)  # 640x360, padded to 640x384
    frame = black(layout)
    frame[0][64:128, 128:192] = 235
    model = entry("scrfd", mean=(0.0,) * 3, scale=1 / 255)
    (faces,) = OnnxCpuDetector(model, path).detect([frame], layout)
    grids = [
        (x, y, side, side)
        for side in (16, 32, 64)
        for y in range(64, 128, side)
        for x in range(128, 192, side)
    ]
    assert sorted(boxes(faces)) == sorted(grids)
    turned = FrameLayout(width=720, height=1280)
    frame = black(turned)
    frame[0][128:192, 64:128] = 235
    (faces,) = OnnxCpuDetector(model, path).detect([frame], turned)
    assert sorted((y, x, h, w) for x, y, w, h in boxes(faces)) == sorted(grids)


def test_a_family_without_landmarks_gives_faces_without(tmp_path: Path) -> None:
    shares = np.full((1, 300, 5), 0.5, np.float32)
    shares[0, :, 4] = 0
    shares[0, 0] = (0.5, 0.25, 0.1, 0.2, 0.9)
    shares[0, 1] = (0.501, 0.25, 0.1, 0.2, 0.7)
    path = constant(tmp_path / "small.onnx", [shares], SQUARE)
    ((face,),) = detect(entry("rt-detr"), path, (1280, 1280))
    assert boxes([face]) == [pytest.approx((576, 192, 128, 256), abs=1e-3)]
    assert face.landmarks == ()


@pytest.mark.parametrize(
    ("width", "height"), [(640, 360), (1920, 1080), (1079, 1919), (333, 251), (64, 64), (37, 41)]
)
@pytest.mark.parametrize("kind", [PixelFormat.I420, PixelFormat.NV12])
def test_a_model_of_one_size_sees_each_frame_whole_at_the_upper_left_of_it(
    tmp_path: Path, width: int, height: int, kind: PixelFormat
) -> None:
    path = bright_yolo(tmp_path / "small.onnx", 320, 256)
    model = entry("yolov8-face", fixed_input=(320, 256), nms_threshold=0.99, score_threshold=0.9)
    layout = FrameLayout(width=width, height=height, format=kind)
    frame = black(layout)
    x, y = width // 4, height // 2
    w, h = width // 2, height // 3
    frame[0][y : y + h, x : x + w] = 235
    detector = OnnxCpuDetector(model, path)
    ((*faces,),) = detector.detect([frame], layout)
    scale = max(width / 320, height / 256)
    corners = np.array([(face.x, face.y, face.x + face.w, face.y + face.h) for face in faces])
    # of 32 faces at most only the first cells are seen: they lie inside, and begin at its corner
    assert corners[:, :2].min(axis=0) == pytest.approx((x, y), abs=(CELL + 1) * scale)
    assert np.all(corners[:, 2] <= x + w + scale)
    assert np.all(corners[:, 3] <= y + h + scale)
    assert detector.detect([black(layout)], layout) == [()]


def test_what_is_beside_the_picture_is_black_also_where_black_is_below_zero(tmp_path: Path) -> None:
    # (0 - 127.5) / 128 is black; 0, which is grey, would be above the threshold
    path = bright_yolo(tmp_path / "small.onnx", 64, 64, zero=-127.5 / 128)
    changes = {"scale": 1 / 128, "mean": (127.5,) * 3, "fixed_input": (64, 64)}
    model = entry("yolov8-face", score_threshold=0.4, **changes)
    grey = FrameLayout(width=64, height=8)
    frame = black(grey)
    frame[0][:] = 180
    detector = OnnxCpuDetector(model, path)
    ((*faces,),) = detector.detect([frame], grey)
    assert {face.y for face in faces} == {0}
    assert len(faces) == 8


def test_each_frame_of_a_batch_has_its_own_faces(tmp_path: Path) -> None:
    path = bright_yolo(tmp_path / "small.onnx", 64, 64)
    layout = FrameLayout(width=64, height=64)
    frames = [black(layout) for _ in range(4)]
    for index in (1, 3):
        frames[index][0][:8, 8 * index : 8 * index + 8] = 235
    found = OnnxCpuDetector(entry("yolov8-face", fixed_input=(64, 64)), path).detect(frames, layout)
    assert [boxes(faces) for faces in found] == [[], [(8, 0, 8, 8)], [], [(24, 0, 8, 8)]]


def test_a_model_of_one_size_gets_no_second_look(tmp_path: Path) -> None:
    path = bright_yolo(tmp_path / "small.onnx", 64, 64)
    layout = FrameLayout(width=64, height=64)
    model = entry("yolov8-face", fixed_input=(64, 64), second_long_side_px=1280)
    detector = OnnxCpuDetector(model, path)
    looks = []
    inner = detector._look
    detector._look = lambda *given: looks.append(given) or inner(*given)  # type: ignore
    detector.detect([black(layout)] * 3, layout)
    assert len(looks) == 3


def whole_numbers(path: Path) -> Path:
    """A yolov8-face whose output is of another type."""
    node = helper.make_node("Cast", ["stored"], ["out"], to=TensorProto.INT64)
    save(path, [node], {"out": (1, 20, 84)}, {"stored": yolo_output([])})
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, str(path))
    return path


def test_a_model_that_does_not_fit_its_family_is_one_sentence(tmp_path: Path) -> None:
    yolo = constant(tmp_path / "yolo.onnx", [yolo_output([])], SQUARE)
    four = constant(tmp_path / "four.onnx", [yolo_output([])], (4, 3, 640, 640))
    for family, path, said in (
        ("scrfd", yolo, "two anchors per cell"),
        ("centerface", yolo, "four outputs"),
        ("yunet", yolo, "twelve outputs"),
        ("yolov8-face", whole_numbers(tmp_path / "int.onnx"), "floating-point"),
        ("yolov8-face", four, "Got: 1 Expected: 4"),
    ):
        with pytest.raises(PermanentError, match=said) as caught:
            OnnxCpuDetector(entry(family, fixed_input=(640, 640)), path)
        assert caught.value.code is ErrorCode.MODEL_DAMAGED
        assert "\n" not in caught.value.message
        assert "add it again" in caught.value.message


def test_a_model_says_which_size_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    output = [yolo_output([])]
    assert fixed_input(constant(path, output, (1, 3, 384, 640))) == (640, 384)
    assert fixed_input(constant(path, output)) is None
    for takes in ((4, 3, 64, 64), (1, 1, 64, 64), (1, 3, 64, "width"), (3, 64, 64)):
        with pytest.raises(PermanentError, match="one input") as caught:
            fixed_input(constant(path, output, takes))
        assert caught.value.code is ErrorCode.MODEL_DAMAGED


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1080, 1920), (640, 640), (4096, 1)])
def test_a_frame_fits_just_inside(width: int, height: int) -> None:
    w, h = fitted_size(width, height, (640, 480))
    assert 1 <= w <= 640
    assert 1 <= h <= 480
    assert w == 640 or h == 480
    assert h == max(1, round(height * w / width)) or w == round(width * h / height)
