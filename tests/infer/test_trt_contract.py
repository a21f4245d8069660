"""What every detector on a device has to do: what the one on the CPU does, for the same frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.infer.engines.batches import GROW_AFTER, Batches, Sides
from services.infer.engines.onnx_cpu import OnnxCpuDetector
from services.infer.families import Array
from services.infer.portions import Portions
from shared.errors import OutOfMemoryError
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes
from shared.models import entry_of, locate
from tests.conftest import MODELS
from tests.infer.conftest import read_clip
from tests.infer.gpu_detectors import KINDS, made, need, unlike, uploaded
from tests.infer.test_onnx_cpu import black, brightness_model, centre, entry

if TYPE_CHECKING:
    from shared.cuda.device import Device

LAYOUT = FrameLayout(width=256, height=128)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, vendor: str) -> str:
    need(request.param, vendor)
    return str(request.param)


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    path = tmp_path / "bright.onnx"
    brightness_model(path, channel=0)
    return path


def with_square(x: int, y: int, side: int, layout: FrameLayout = LAYOUT) -> Planes:
    frame = black(layout)
    frame[0][y : y + side, x : x + side] = 235
    return frame


def same(one: list[tuple[Face, ...]], two: list[tuple[Face, ...]], px: float, score: float) -> str:
    pairs = zip(one, two, strict=True)
    return "; ".join(filter(None, (unlike(a, b, px=px, score=score) for a, b in pairs)))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_any_number_of_frames_gives_the_faces_that_the_cpu_finds(
    device: Device, vendor: str, kind: str, bright: Path, count: int
) -> None:
    rng = np.random.default_rng(count)
    frames = []
    for _ in range(count):
        # no cell of the model's is half bright: that is its threshold
        x, y = (16 * int(at) + 3 for at in rng.integers(0, (13, 5)))
        frames.append(with_square(x, y, 32))
    want = OnnxCpuDetector(entry(), bright).detect(frames, LAYOUT)
    assert any(want)
    detector = made(kind, device, entry(), bright, vendor)
    assert same(want, detector.detect(*uploaded(device, frames, LAYOUT)), 1, 0.01) == ""


@pytest.mark.parametrize(
    ("width", "height"), [(256, 144), (144, 256), (64, 36), (130, 70), (64, 64)]
)
def test_a_bright_square_is_found_where_it_is_in_a_frame_of_any_shape(
    device: Device, vendor: str, kind: str, bright: Path, width: int, height: int
) -> None:
    layout = FrameLayout(width=width, height=height)
    x, y, side = width // 2, height // 4, max(width, height) // 4
    frame = with_square(x, y, side, layout)
    detector = made(kind, device, entry(), bright, vendor)
    (faces,) = detector.detect(*uploaded(device, [frame], layout))
    cell = max(width, height) / 64 * 4
    found = np.array([centre(face) for face in faces])
    assert found.min(axis=0) == pytest.approx((x, y), abs=cell)
    assert found.max(axis=0) == pytest.approx((x + side, y + side), abs=cell)


def test_a_face_too_small_for_the_first_look_is_found_by_the_second(
    device: Device, vendor: str, kind: str, bright: Path
) -> None:
    small = with_square(128, 64, 8)  # 2 px of 64: a quarter of a cell, at 128 a whole one
    frames, layout = uploaded(device, [small, black(LAYOUT), with_square(0, 0, 32)], LAYOUT)
    assert made(kind, device, entry(), bright, vendor).detect(frames[:2], layout) == [(), ()]
    twice = made(kind, device, entry(second=128), bright, vendor).detect(frames, layout)
    assert [bool(faces) for faces in twice] == [True, False, True]
    assert centre(twice[0][0]) == pytest.approx((132, 68), abs=2)


def test_short_of_memory_it_says_so_and_does_fewer_at_a_time(
    device: Device, vendor: str, kind: str, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if vendor == "gpu":
        pytest.skip("a GPU's memory can't be taken away from it")
    wide = entry().model_copy(update={"long_side_px": 1024, "family": "centerface"})
    frames, layout = uploaded(device, [with_square(16, 16, 64)] * 8, LAYOUT)
    detector = made(kind, device, wide, bright, vendor)
    # room for three pictures of 1024x512 px and what belongs to them, not for eight
    each_mib = {"tensorrt-fp32": 20, "tensorrt-fp16": 10, "onnx-cuda": 8}[kind]
    monkeypatch.setenv("DOUBLE_VRAM_MIB", str(3 * each_mib + 4))
    portions = Portions()
    found = portions.detect(detector, frames, layout)
    assert [bool(faces) for faces in found] == [True] * 8
    assert portions.limit < 8


class Full:
    """A net of one output that has no room for more than `room` pictures, of any content."""

    def __init__(self, device: Device, size: int, room: list[int], sizes: list[int]) -> None:
        sizes.append(size)
        if size > room[0]:
            raise OutOfMemoryError(f"{size} pictures")
        self.batch = device.empty((size, 3, 32, 64), "float32")
        self._outputs = [np.zeros((size, n, 8, 16), np.float32) for n in (1, 2, 2, 10)]

    def run(self) -> list[Array]:
        return self._outputs


def test_calls_get_smaller_with_each_shortage_and_larger_again_in_time(
    device: Device,
) -> None:
    room, sizes = [3], list[int]()
    batches = Batches(
        device, entry(), Sides(64, 0), (1, 2, 4, 8), lambda size, _: Full(device, size, room, sizes)
    )
    frames, layout = uploaded(device, [black(LAYOUT)] * 32, LAYOUT)
    for failing in (8, 4):
        with pytest.raises(OutOfMemoryError):
            batches.detect(frames, layout)
        assert sizes[-1] == failing
        batches.free()
    assert batches.detect(frames, layout) == [()] * 32
    assert set(sizes[2:]) == {2}
    room[0] = 8
    for _ in range(2 * GROW_AFTER):
        batches.detect(frames, layout)
    assert sizes[-1] == 8


def test_only_outputs_leave_the_device(vendor: str, kind: str, bright: Path) -> None:
    from shared.cuda.device import Device

    if vendor == "gpu":
        pytest.skip("this opens a device of its own")
    copied: dict[str, int] = {"host_to_device": 0, "device_to_host": 0}

    def count(direction: str, size: int) -> None:
        copied[direction] += size

    device = Device(on_copy=count)
    frames, layout = uploaded(device, [with_square(16, 16, 64)] * 8, LAYOUT)
    detector = made(kind, device, entry(), bright, vendor)
    copied.update(host_to_device=0, device_to_host=0)
    detector.detect(frames, layout)
    cells = 8 * (64 // 4) * (32 // 4) * (1 + 2 + 2 + 10)
    assert copied["host_to_device"] == 0
    assert copied["device_to_host"] == cells * (2 if kind == "tensorrt-fp16" else 4)


def test_after_its_memory_was_given_back_it_finds_the_same(
    device: Device, vendor: str, kind: str, bright: Path
) -> None:
    frames, layout = uploaded(device, [with_square(16, 16, 64)] * 3, LAYOUT)
    detector = made(kind, device, entry(), bright, vendor)
    before = detector.detect(frames, layout)
    detector.free()
    assert detector.detect(frames, layout) == before


@pytest.mark.footage
@pytest.mark.parametrize("model", ["yunet_n", "centerface"])
def test_real_models_see_the_same_faces_as_on_the_cpu(
    device: Device,
    vendor: str,
    kind: str,
    model: str,
    tmp_path: Path,
    footage: Path,
    model_cache: Path,
    detector_of: Callable[[str], OnnxCpuDetector],
) -> None:
    clip = footage / "faces/intel-head-pose-face-detection-female-and-male.gif"
    frames, layout = read_clip(clip, every=20, stop=60)
    want = detector_of(model).detect(frames, layout)
    assert [len(faces) for faces in want] == [2] * len(frames)
    path = tmp_path / "model.onnx"
    path.symlink_to(locate(model, model_cache, [MODELS]))
    detector = made(kind, device, entry_of(model), path, vendor)
    got = detector.detect(*uploaded(device, frames, layout))
    assert same(want, got, 1, 0.01) == ""
