"""The detector over ONNX Runtime's CUDA provider; without a GPU, its own code over another one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from services.infer.engines.half import in_half
from services.infer.engines.onnx_cuda import OnnxCudaDetector
from services.infer.engines.onnx_session import CPU, CUDA, Session
from shared.errors import DeviceLostError, EngineError, ErrorCode, OutOfMemoryError, PermanentError
from shared.media.layout import FrameLayout
from tests.infer.gpu_detectors import MIB, need, onnx_cuda, uploaded
from tests.infer.test_onnx_cpu import black, brightness_model, entry

if TYPE_CHECKING:
    from shared.cuda.device import Device

LAYOUT = FrameLayout(width=256, height=128)


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    path = tmp_path / "bright.onnx"
    brightness_model(path, channel=0)
    return path


@pytest.fixture
def device(device: Device, vendor: str) -> Device:
    need("onnx-cuda", vendor)
    return device


@pytest.fixture
def double(doubles: None) -> Device:  # noqa: ARG001
    """A device over the doubles, for what only they can be told to do."""
    from shared.cuda.device import Device

    return Device()


def test_a_package_without_the_provider_is_no_error_of_the_work(
    double: Device, bright: Path
) -> None:
    if CUDA in ort.get_available_providers():
        pytest.skip("this is onnxruntime-gpu")
    with pytest.raises(EngineError, match="install onnxruntime-gpu") as caught:
        OnnxCudaDetector(double, entry(), bright, limit_bytes=64 * MIB)
    assert not caught.value.able


def test_a_session_that_falls_back_to_the_cpu_is_refused(
    double: Device, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}
    open_session = ort.InferenceSession

    def falls_back(path: str, settings: Any, providers: list[Any], **more: Any) -> Any:
        made.update(more, providers=providers)
        return open_session(path, settings, providers=[CPU])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", falls_back)
    with pytest.raises(EngineError, match="can't load CUDAExecutionProvider") as caught:
        OnnxCudaDetector(double, entry(), bright, limit_bytes=64 * MIB)
    assert not caught.value.able
    (name, options), last = made["providers"]
    assert (name, last) == (CUDA, CPU)
    assert options["user_compute_stream"] == str(double.stream)
    assert options["gpu_mem_limit"] == str(64 * MIB)
    assert made["enable_fallback"] == 0


def test_what_missing_libraries_print_is_told_and_not_printed(
    double: Device,
    bright: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    open_session = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, *_, **__: open_session(path, providers=[CPU])
    )
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load\n libcudnn.so.9"))
    with pytest.raises(EngineError, match=r"Failed to load libcudnn\.so\.9"):
        OnnxCudaDetector(double, entry(), bright, limit_bytes=64 * MIB)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("data", [b"", b"not a model", None])
def test_a_file_that_is_no_model_is_a_permanent_error(
    double: Device, tmp_path: Path, data: bytes | None
) -> None:
    path = tmp_path / "bright.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PermanentError) as caught:
        onnx_cuda(double, entry(), path, "double")
    assert caught.value.code is ErrorCode.MODEL_DAMAGED


def test_a_model_of_another_family_is_refused_when_loaded(
    device: Device, vendor: str, bright: Path
) -> None:
    other = entry().model_copy(update={"family": "yunet"})
    with pytest.raises(PermanentError) as caught:
        onnx_cuda(device, other, bright, vendor)
    assert caught.value.code is ErrorCode.MODEL_DAMAGED


class Failing:
    """A session whose runs fail."""

    def __init__(self, session: Session, error: Exception, before: Callable[[], None]) -> None:
        self._session, self._error, self._before = session, error, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        del binding
        self._before()
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ort_errors.RuntimeException("Failed to allocate memory for requested buffer"), "memory"),
        (ort_errors.Fail("CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR"), "able"),
    ],
)
def test_what_fails_while_running_is_told_by_its_kind(
    double: Device, bright: Path, error: Exception, kind: str
) -> None:
    detector = onnx_cuda(double, entry(), bright, "double")
    frames = uploaded(double, [black(LAYOUT)], LAYOUT)
    detector._net.session = Failing(detector._net.session, error, lambda: None)  # type: ignore[assignment]
    with pytest.raises(OutOfMemoryError if kind == "memory" else EngineError) as caught:
        detector.detect(*frames)
    if isinstance(caught.value, EngineError):
        assert caught.value.able


def test_a_context_that_broke_meanwhile_ends_the_process(double: Device, bright: Path) -> None:
    driver = sys.modules["cupy._driver"].driver
    detector = onnx_cuda(double, entry(), bright, "double")
    frames = uploaded(double, [black(LAYOUT)], LAYOUT)

    def broken() -> None:
        driver.lost = 700

    error = ort_errors.Fail("CUDA failure 700: an illegal memory access was encountered")
    detector._net.session = Failing(detector._net.session, error, broken)  # type: ignore[assignment]
    with pytest.raises(DeviceLostError):
        detector.detect(*frames)


def test_a_model_in_half_precision_gets_its_pictures_in_half_precision(
    device: Device, vendor: str, bright: Path
) -> None:
    bright.write_bytes(in_half(bright.read_bytes()))
    frame = black(LAYOUT)
    frame[0][32:64, 64:96] = 235
    (faces,) = onnx_cuda(device, entry(), bright, vendor).detect(*uploaded(device, [frame], LAYOUT))
    assert faces
