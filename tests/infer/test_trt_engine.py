"""The detector over TensorRT: compiling, the cache, CUDA graphs, and what can go wrong."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from services.infer.engines import tensorrt as engine_module
from services.infer.engines import trt_api, trt_build
from services.infer.engines.onnx_cpu import OnnxCpuDetector
from services.infer.engines.tensorrt import Options, TensorRtDetector
from services.infer.engines.trt_cache import MARK, Receipt
from shared.errors import (
    DeviceLostError,
    EngineError,
    ErrorCode,
    OutOfMemoryError,
    PermanentError,
    WorkOverError,
)
from shared.media.layout import FrameLayout, Planes
from shared.names import ENGINES
from shared.storage.directory import DirectoryStore
from tests.infer.gpu_detectors import cache_in, need, tensorrt, unlike, uploaded
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
    need("tensorrt", vendor)
    return device


@pytest.fixture
def double(doubles: None) -> Device:  # noqa: ARG001
    """A device over the doubles, for what only they can be told to do."""
    from shared.cuda.device import Device

    return Device()


def seen(device: Device, count: int = 3) -> tuple[list[Planes], FrameLayout]:
    frames = []
    for index in range(count):
        frame = black(LAYOUT)
        frame[0][16 * index : 16 * index + 32, 64:96] = 235
        frames.append(frame)
    return uploaded(device, frames, LAYOUT)


def compiled() -> list[str]:
    """What the double compiled in this process so far."""
    found: list[str] = sys.modules["tensorrt"].builds
    return list(found)


def test_a_second_process_takes_the_engine_from_the_store(double: Device, bright: Path) -> None:
    one = tensorrt(double, entry(), bright)
    count = len(compiled())
    two = tensorrt(double, entry(), bright)
    assert len(compiled()) == count
    assert one.detect(*seen(double)) == two.detect(*seen(double))


def test_another_version_of_tensorrt_compiles_its_own_engine(
    double: Device, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt(double, entry(), bright)
    count = len(compiled())
    monkeypatch.setenv("DOUBLE_TENSORRT_VERSION", "11.5.0.1")
    assert tensorrt(double, entry(), bright).detect(*seen(double))
    assert len(compiled()) == count + 1


def test_an_engine_that_tensorrt_refuses_is_compiled_anew(double: Device, bright: Path) -> None:
    tensorrt(double, entry(), bright)
    count = len(compiled())
    # as when a driver's update changes what the library takes, and no name
    folder = bright.parent / "store" / ENGINES
    (stored,) = folder.glob("*.engine")
    data = stored.read_bytes()
    end = data.index(b"\n", len(MARK)) + 1
    plan = data[end:].replace(b"plan of the double", b"plan of whatever it")
    receipt = Receipt.model_validate_json(data[len(MARK) : end])
    line = (
        receipt.model_copy(update={"sha256": hashlib.sha256(plan).hexdigest()})
        .model_dump_json()
        .encode()
    )
    stored.write_bytes(MARK + line + b"\n" + plan)
    assert tensorrt(double, entry(), bright).detect(*seen(double))
    assert len(compiled()) == count + 1


def test_a_log_of_compiling_is_kept_without_what_fills_books(double: Device, bright: Path) -> None:
    tensorrt(double, entry(), bright)
    store = DirectoryStore(bright.parent / "store")
    (key,) = store.keys(f"{ENGINES}/logs")
    log = b"".join(store.read(key)).decode()
    assert "INFO: Engine generation completed" in log
    assert '"precision":"fp32"' in log
    assert "hundred thousand" not in log


def test_graphs_are_recorded_and_change_nothing(
    double: Device, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[Callable[[], None]] = []
    record = engine_module.record

    def counted(device: Device, work: Callable[[], None]) -> Any:
        recorded.append(work)
        return record(device, work)

    monkeypatch.setattr(engine_module, "record", counted)
    plain = tensorrt(double, entry(), bright, graphs=False)
    with_graphs = tensorrt(double, entry(), bright)
    assert not recorded
    want = [plain.detect(*seen(double, count)) for count in (3, 8, 3, 3, 8, 1, 8)]
    assert not recorded
    assert [with_graphs.detect(*seen(double, count)) for count in (3, 8, 3, 3, 8, 1, 8)] == want
    assert len(recorded) == 2, "calls of four and of eight; the trial's was of another shape"


def test_where_nothing_can_be_recorded_it_goes_on_without(
    double: Device, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = tensorrt(double, entry(), bright)
    monkeypatch.setenv("DOUBLE_TENSORRT_FAULTS", "graph=no")
    first = detector.detect(*seen(double))
    assert detector.detect(*seen(double)) == first
    assert detector.detect(*seen(double)) == first


def test_a_model_of_batch_one_gets_its_pictures_one_by_one(device: Device, bright: Path) -> None:
    model = onnx.load(str(bright))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(bright))
    found = tensorrt(device, entry(), bright).detect(*seen(device, 5))
    assert [len(faces) > 0 for faces in found] == [True] * 5


def test_a_model_of_one_size_gets_the_picture_fitted_into_it(device: Device, bright: Path) -> None:
    model = onnx.load(str(bright))
    for at, side in ((2, 96), (3, 64)):
        model.graph.input[0].type.tensor_type.shape.dim[at].dim_value = side
    onnx.save(model, str(bright))
    fixed = entry(second=128).model_copy(update={"fixed_input": (64, 96)})
    host = FrameLayout(width=256, height=128)
    frame = black(host)
    frame[0][32:96, 64:128] = 235
    (want,) = OnnxCpuDetector(fixed, bright).detect([frame], host)
    (got,) = tensorrt(device, fixed, bright).detect(*uploaded(device, [frame], host))
    assert want
    assert unlike(want, got, px=1, score=0.01) == ""


def quantised(path: Path) -> None:
    """The model with its picture through eight bits, as explicit quantisation writes it."""
    model = onnx.load(str(path))
    graph = model.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(1.0), "step"),
            numpy_helper.from_array(np.uint8(0), "zero"),
        ]
    )
    graph.node[0].input[0] = "again"
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["few", "step", "zero"], ["again"]))
    graph.node.insert(0, helper.make_node("QuantizeLinear", ["picture", "step", "zero"], ["few"]))
    onnx.save(model, str(path))


def test_a_quantised_model_is_compiled_as_it_is(device: Device, bright: Path) -> None:
    want = tensorrt(device, entry(), bright).detect(*seen(device))
    quantised(bright)
    detector = tensorrt(device, entry(), bright, "int8")
    assert detector.name == "tensorrt-int8:bright"
    pairs = zip(want, detector.detect(*seen(device)), strict=True)
    assert [unlike(one, two, px=1, score=0.01) for one, two in pairs] == [""] * 3


def test_a_quantised_model_in_half_precision_is_refused(double: Device, bright: Path) -> None:
    quantised(bright)
    with pytest.raises(EngineError, match="it is quantised") as caught:
        tensorrt(double, entry(), bright, "fp16")
    assert not caught.value.able


def test_all_that_tensorrt_can_not_do_is_in_one_sentence(double: Device, bright: Path) -> None:
    model = onnx.load(str(bright))
    for name in ("one", "two"):
        node = helper.make_node("Odd", ["heat"], [name], name=f"odd_{name}", domain="com.example")
        model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, str(bright))
    with pytest.raises(EngineError, match=r"Odd odd_one: .*; Odd odd_two: .*\.$") as caught:
        tensorrt(double, entry(), bright)
    assert not caught.value.able
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("data", [b"", b"not a model", None])
def test_a_file_that_is_no_model_is_a_permanent_error(
    double: Device, tmp_path: Path, data: bytes | None, precision: Any
) -> None:
    path = tmp_path / "bright.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PermanentError) as caught:
        tensorrt(double, entry(), path, precision)
    assert caught.value.code is ErrorCode.MODEL_DAMAGED


def test_a_model_of_another_family_is_refused_when_loaded(device: Device, bright: Path) -> None:
    other = entry().model_copy(update={"family": "yunet"})
    with pytest.raises(PermanentError) as caught:
        tensorrt(device, other, bright)
    assert caught.value.code is ErrorCode.MODEL_DAMAGED


def test_without_the_package_it_says_how_to_get_it(
    double: Device, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(EngineError, match=r"docs/tensorrt\.md") as caught:
            tensorrt(double, entry(), bright)
    assert not caught.value.able


@pytest.mark.parametrize("version", ["8.6.1", "10.9.0.34"])
def test_a_version_too_old_is_refused(
    double: Device, bright: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("DOUBLE_TENSORRT_VERSION", version)
    with pytest.raises(EngineError, match="older than") as caught:
        tensorrt(double, entry(), bright)
    assert not caught.value.able


@pytest.mark.parametrize(
    ("faults", "kind", "told"),
    [
        ("build=oom", OutOfMemoryError, "could not be allocated"),
        ("build=no", EngineError, "Could not find an implementation"),
        ("start=no", EngineError, "CUDA initialization failure"),
    ],
)
def test_what_fails_while_compiling_is_told_by_its_kind(
    double: Device,
    bright: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: str,
    kind: type[Exception],
    told: str,
) -> None:
    monkeypatch.setenv("DOUBLE_TENSORRT_FAULTS", faults)
    with pytest.raises(kind, match=told):
        tensorrt(double, entry(), bright)


@pytest.mark.parametrize(
    ("faults", "kind"), [("run=oom", OutOfMemoryError), ("run=no", EngineError)]
)
def test_what_fails_while_running_is_told_by_its_kind(
    double: Device,
    bright: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: str,
    kind: type[Exception],
) -> None:
    detector = tensorrt(double, entry(), bright)
    want = detector.detect(*seen(double))
    detector.free()
    monkeypatch.setenv("DOUBLE_TENSORRT_FAULTS", faults)
    with pytest.raises(kind):
        detector.detect(*seen(double))
    monkeypatch.setenv("DOUBLE_TENSORRT_FAULTS", "")
    assert detector.detect(*seen(double)) == want


def test_a_context_that_breaks_while_detecting_ends_the_process(
    double: Device, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = tensorrt(double, entry(), bright)
    frames = seen(double)
    next_launch = sys.modules["cupy._driver"].driver.launches + 1
    monkeypatch.setenv("DOUBLE_FAULTS", f"illegal={next_launch}")
    with pytest.raises(DeviceLostError):
        detector.detect(*frames)


def test_a_job_that_ends_meanwhile_ends_compiling(double: Device, bright: Path) -> None:
    steps: list[int] = []

    def over() -> None:
        steps.append(1)
        if len(steps) == 3:
            raise WorkOverError("j")

    with pytest.raises(WorkOverError):
        TensorRtDetector(
            double, entry(), bright, cache_in(bright.parent / "store"), Options(), over
        )
    assert len(steps) == 3


def test_a_larger_picture_takes_more_scratch_memory_and_the_smaller_ones_go_on(
    device: Device, bright: Path
) -> None:
    detector = tensorrt(device, entry(second=256), bright)
    small = seen(device, 2)
    before = detector.detect(*small)
    for _ in range(3):
        detector.detect(*uploaded(device, [black(LAYOUT)] * 5, LAYOUT))  # second looks
        assert detector.detect(*small) == before


TRT_API = {
    "trt": {
        "Builder",
        "ErrorCode",
        "ExecutionContextAllocationStrategy",
        "ILogger",
        "IProgressMonitor",
        "MemoryPoolType",
        "NetworkDefinitionCreationFlag",
        "OnnxParser",
        "PreviewFeature",
        "Runtime",
        "TensorIOMode",
        "__version__",
    },
    "Builder": {
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
    },
    "ErrorCode": {"MODEL_DESERIALIZE_FAILED"},
    "ExecutionContextAllocationStrategy": {"USER_MANAGED"},
    "IBuilderConfig": {
        "add_optimization_profile",
        "create_timing_cache",
        "progress_monitor",
        "set_memory_pool_limit",
        "set_preview_feature",
        "set_timing_cache",
    },
    "ICudaEngine": {
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "num_io_tensors",
        "num_optimization_profiles",
    },
    "IExecutionContext": {
        "execute_async_v3",
        "get_tensor_shape",
        "set_device_memory",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
        "update_device_memory_size_for_shapes",
    },
    "ILogger": {"ERROR", "INTERNAL_ERROR", "VERBOSE", "__init__"},
    "INetworkDefinition": {"get_input", "get_output", "num_inputs", "num_outputs"},
    "IOptimizationProfile": {"set_shape"},
    "IProgressMonitor": {"__init__"},
    "ITensor": {"name", "shape"},
    "ITimingCache": {"serialize"},
    "MemoryPoolType": {"WORKSPACE"},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
    "OnnxParser": {"get_error", "num_errors", "parse"},
    "ParserError": {"code", "desc", "node_name", "node_operator"},
    "PreviewFeature": {"RUNTIME_ACTIVATION_RESIZE_10_10"},
    "Runtime": {"deserialize_cuda_engine"},
    "TensorIOMode": {"OUTPUT"},
}
"""Every name of TensorRT's package that is used, checked by hand against the bindings of 11.4."""

CALLED = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "flaw": "ParserError",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "range": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
    "trt": "trt",
    "tensorrt": "trt",
    "timings": "ITimingCache",
}
"""What variables of TensorRT's types are called in the modules that use it."""


def used(source: str) -> Iterator[tuple[str, str]]:
    """(class, name) of all that a module takes from TensorRT."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            held = node.value
            last = held.attr if isinstance(held, ast.Attribute) else getattr(held, "id", "")
            owner = CALLED.get(last.strip("_"), last)
            if owner in TRT_API:
                yield owner, node.attr


def test_the_list_of_names_is_what_the_engine_uses() -> None:
    found: dict[str, set[str]] = {}
    for module in (engine_module, trt_api, trt_build):
        for owner, name in used(inspect.getsource(module)):
            found.setdefault(owner, set()).add(name)
    assert found == TRT_API


def test_the_package_has_every_name_that_the_engine_uses(vendor: str) -> None:
    """The double has them; and on a machine with a GPU the real package is asked."""
    trt = pytest.importorskip("tensorrt", reason=f"there is no TensorRT for {vendor}")
    for owner, names in TRT_API.items():
        for name in names:
            holder = trt if owner == "trt" else getattr(trt, owner)
            assert hasattr(holder, name), f"{owner}.{name}"
