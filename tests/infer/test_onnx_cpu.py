"""The engine with small graphs whose answer is known, then with real models and clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.infer.engines.onnx_cpu import OnnxCpuDetector
from shared.errors import ErrorCode, PermanentError
from shared.faces import Face
from shared.media.layout import FrameLayout, PixelFormat, Planes
from shared.models import ModelEntry
from shared.models.catalogue import FromUrl
from tests.infer.conftest import read_clip

MakeDetector = Callable[[str], OnnxCpuDetector]


def brightness_model(path: Path, channel: int) -> None:
    """A "centerface" whose heat is `channel` / 255 averaged over 4x4; faces are 4 px, no offset."""
    weights = np.zeros((1, 3, 4, 4), np.float32)
    weights[0, channel] = 1 / 16 / 255
    picks = np.zeros((10, 1, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["picture", "weights"], ["heat"], strides=[4, 4]),
        helper.make_node("Conv", ["heat", "two"], ["size"]),
        helper.make_node("Conv", ["heat", "two"], ["offset"]),
        helper.make_node("Conv", ["heat", "ten"], ["marks"]),
    ]
    shape: list[str | int | None] = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count, "h", "w"])
            for name, count in (("heat", 1), ("size", 2), ("offset", 2), ("marks", 10))
        ],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(picks[:2], "two"),
            onnx.numpy_helper.from_array(picks, "ten"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))


def entry(channels: str = "RGB", second: int = 0) -> ModelEntry:
    return ModelEntry.model_validate(
        {
            "name": "bright",
            "family": "centerface",
            "file": "bright.onnx",
            "sha256": "0" * 64,
            "origin": FromUrl(url="https://example.org/bright.onnx"),
            "licence": "none",
            "long_side_px": 64,
            "second_long_side_px": second,
            "channels": channels,
            "score_threshold": 0.5,
            "nms_threshold": 0.3,
        }
    )


def black(layout: FrameLayout) -> Planes:
    """A frame of black, BT.601 limited range."""
    planes = layout.planes(np.full(layout.frame_bytes, 128, np.uint8))
    planes[0][:] = 16
    return planes


def centre(face: Face) -> tuple[float, float]:
    return face.x + face.w / 2, face.y + face.h / 2


@pytest.mark.parametrize(("width", "height"), [(256, 144), (144, 256), (64, 36), (130, 70)])
def test_a_bright_square_is_found_where_it_is_in_the_frame(
    tmp_path: Path, width: int, height: int
) -> None:
    brightness_model(tmp_path / "bright.onnx", channel=0)
    layout = FrameLayout(width=width, height=height)
    frame = black(layout)
    x, y, side = width // 2, height // 4, max(width, height) // 4
    frame[0][y : y + side, x : x + side] = 235
    detector = OnnxCpuDetector(entry(), tmp_path / "bright.onnx")
    (faces,) = detector.detect([frame], layout)
    cell = max(width, height) / 64 * 4
    found = np.array([centre(face) for face in faces])
    assert found.min(axis=0) == pytest.approx((x, y), abs=cell)
    assert found.max(axis=0) == pytest.approx((x + side, y + side), abs=cell)


@pytest.mark.parametrize(("channels", "channel", "seen"), [("RGB", 0, True), ("BGR", 0, False)])
def test_a_red_frame_is_bright_in_the_channel_that_the_model_calls_red(
    tmp_path: Path, channels: str, channel: int, seen: bool
) -> None:
    brightness_model(tmp_path / "bright.onnx", channel)
    layout = FrameLayout(width=64, height=32)
    frame = black(layout)
    frame[0][:], frame[1][:], frame[2][:] = 81, 90, 240  # red of BT.601
    (faces,) = OnnxCpuDetector(entry(channels), tmp_path / "bright.onnx").detect([frame], layout)
    assert bool(faces) is seen


def test_nv12_and_i420_of_the_same_frame_give_the_same_faces(tmp_path: Path) -> None:
    brightness_model(tmp_path / "bright.onnx", channel=0)
    i420 = FrameLayout(width=256, height=144)
    nv12 = FrameLayout(width=256, height=144, format=PixelFormat.NV12)
    rng = np.random.default_rng(1)
    frame = i420.planes(rng.integers(100, 140, i420.frame_bytes, dtype=np.uint8))
    frame[0][20:60, 50:90] = 235
    pairs = np.stack(frame[1:], axis=-1).reshape(72, 256)
    detector = OnnxCpuDetector(entry(), tmp_path / "bright.onnx")
    (one,), (two,) = detector.detect([frame], i420), detector.detect([(frame[0], pairs)], nv12)
    assert {centre(face) for face in one} == {centre(face) for face in two}
    # OpenCV rounds means of one and of two channels differently
    assert [face.score for face in one] == pytest.approx([face.score for face in two], abs=0.02)


def test_frames_are_only_read(tmp_path: Path) -> None:
    brightness_model(tmp_path / "bright.onnx", channel=0)
    layout = FrameLayout(width=64, height=32)
    frame = black(layout)
    for plane in frame:
        plane.flags.writeable = False
    assert OnnxCpuDetector(entry(), tmp_path / "bright.onnx").detect([frame], layout) == [()]


def test_a_face_too_small_for_the_first_look_is_found_by_the_second(tmp_path: Path) -> None:
    brightness_model(tmp_path / "bright.onnx", channel=0)
    layout = FrameLayout(width=256, height=128)
    frame = black(layout)
    frame[0][64:72, 128:136] = 235  # 2 px of 64: a quarter of a cell, at 128 a whole one
    path = tmp_path / "bright.onnx"
    assert OnnxCpuDetector(entry(), path).detect([frame], layout) == [()]
    (faces,) = OnnxCpuDetector(entry(second=128), path).detect([frame], layout)
    assert [centre(face) for face in faces] == [pytest.approx((132, 68), abs=2)]


def test_larger_looks_go_on_after_one_in_vain_but_not_for_ever(tmp_path: Path) -> None:
    brightness_model(tmp_path / "bright.onnx", channel=0)
    layout = FrameLayout(width=256, height=128)
    empty, small = black(layout), black(layout)
    small[0][64:72, 128:136] = 235
    detector = OnnxCpuDetector(entry(second=128), tmp_path / "bright.onnx")
    assert [len(faces) for faces in detector.detect([empty, small], layout)] == [0, 1]
    assert [len(faces) for faces in detector.detect([empty, empty, small], layout)] == [0, 0, 0]
    many = [empty, *[small] * 3, empty, empty, small]
    assert [len(faces) for faces in detector.detect(many, layout)] == [0, 1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("data", [b"", b"not a model", None])
def test_a_file_that_is_no_model_is_a_permanent_error(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "bright.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PermanentError) as caught:
        OnnxCpuDetector(entry(), path)
    assert caught.value.code is ErrorCode.MODEL_DAMAGED


def test_a_model_of_another_family_is_refused_when_loaded(tmp_path: Path) -> None:
    brightness_model(tmp_path / "bright.onnx", channel=0)
    other = entry().model_copy(update={"family": "yunet"})
    with pytest.raises(PermanentError) as caught:
        OnnxCpuDetector(other, tmp_path / "bright.onnx")
    assert caught.value.code is ErrorCode.MODEL_DAMAGED


def reference(footage: Path, name: str) -> dict[int, list[tuple[float, ...]]]:
    """Boxes by 0-based frame, from a MOT file."""
    boxes: dict[int, list[tuple[float, ...]]] = {}
    for line in (footage / "ref" / f"{name}.facetracks.txt").read_text().splitlines():
        frame, _, *box = line.split(",")[:6]
        boxes.setdefault(int(frame) - 1, []).append(tuple(map(float, box)))
    return boxes


def iou(box: tuple[float, ...], face: Face) -> float:
    x, y, w, h = box
    across = min(x + w, face.x + face.w) - max(x, face.x)
    down = min(y + h, face.y + face.h) - max(y, face.y)
    both = max(0.0, across) * max(0.0, down)
    return both / (w * h + face.w * face.h - both)


def is_found(box: tuple[float, ...], faces: tuple[Face, ...]) -> bool:
    return any(iou(box, face) > 0.4 for face in faces)


# floors some per cent below what was measured: 112/112, 70/70, 279/282 and 112, 70, 264
FLOORS = [
    ("yunet_n", "faces/intel-head-pose-face-detection-female-and-male.gif", 1.0),
    ("yunet_n", "faces/intel-face-demographics-walking.gif", 1.0),
    ("yunet_n", "people/sam2-bedroom.mp4", 0.95),
    ("centerface", "faces/intel-head-pose-face-detection-female-and-male.gif", 1.0),
    ("centerface", "faces/intel-face-demographics-walking.gif", 0.95),
    ("centerface", "people/sam2-bedroom.mp4", 0.9),
]


@pytest.mark.timeout(300)
@pytest.mark.footage
@pytest.mark.parametrize(("model", "clip", "floor"), FLOORS)
def test_faces_of_the_reference_tracks_are_found(
    footage: Path, detector_of: MakeDetector, model: str, clip: str, floor: float
) -> None:
    frames, layout = read_clip(footage / clip)
    detector = detector_of(model)
    # six detections are what a batch has
    faces = [
        f for i in range(0, len(frames), 6) for f in detector.detect(frames[i : i + 6], layout)
    ]
    wanted = reference(footage, Path(clip).stem)
    found = [is_found(box, faces[index]) for index, boxes in wanted.items() for box in boxes]
    assert sum(found) >= floor * len(found)


@pytest.mark.footage
@pytest.mark.parametrize("model", ["yunet_n", "centerface"])
def test_both_people_of_the_interview_are_found_and_nobody_else(
    footage: Path, detector_of: MakeDetector, model: str
) -> None:
    frames, layout = read_clip(footage / "interview-1080p.mp4", every=30, stop=200)
    assert {len(faces) for faces in detector_of(model).detect(frames, layout)} == {2}


@pytest.mark.footage
@pytest.mark.parametrize("model", ["yunet_n", "centerface"])
def test_the_right_eye_is_on_the_left_of_the_picture(
    footage: Path, detector_of: MakeDetector, model: str
) -> None:
    clip = footage / "faces/openh264-Zhling_1280x720.264"
    frames, layout = read_clip(clip, every=9)
    for faces in detector_of(model).detect(frames, layout):
        right_eye, left_eye, nose, right_mouth, left_mouth = faces[0].landmarks
        assert right_eye[0] < nose[0] < left_eye[0]
        assert right_mouth[0] < left_mouth[0]
        assert right_eye[1] < nose[1] < right_mouth[1]


@pytest.mark.footage
@pytest.mark.parametrize("model", ["yunet_n", "centerface"])
def test_a_clip_without_faces_gives_none(
    footage: Path, detector_of: MakeDetector, model: str
) -> None:
    frames, layout = read_clip(footage / "people/intel-people-detection.gif", every=3)
    assert not any(detector_of(model).detect(frames, layout))
