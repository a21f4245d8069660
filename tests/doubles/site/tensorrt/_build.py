"""From an ONNX model to a plan: bytes with a header."""

# ruff: noqa: ARG002

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from tensorrt._told import (
    OOM,
    DataType,
    ErrorCode,
    IHostMemory,
    ILogger,
    MemoryPoolType,
    PreviewFeature,
    fault,
    version,
    whole,
)

PLAN = b"plan of the double\n"
TIMING = b"timing of the double\n"

builds: list[str] = []
"""SHA-256 of the models that this process compiled, in order: for tests."""

_TYPES = {onnx.TensorProto.FLOAT: DataType.FLOAT, onnx.TensorProto.FLOAT16: DataType.HALF}

Shape = tuple[int, ...]


def gpu() -> str:
    return f"Double of a GPU {os.environ.get('DOUBLE_COMPUTE', '8.6')}"


class ITensor:
    name: str = ""
    shape: Shape = ()

    def __init__(self, name: str, shape: Shape, dtype: DataType) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self._model = b""
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ParserError:
    def __init__(self, code: ErrorCode, desc: str, node: onnx.NodeProto | None = None) -> None:
        self._code, self._desc = code, desc
        self._name = "" if node is None else node.name
        self._operator = "" if node is None else node.op_type

    def code(self) -> ErrorCode:
        return self._code

    def desc(self) -> str:
        return self._desc

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        whole(logger)
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        network = self._network
        try:
            proto = onnx.load_model_from_string(model)
            foreign = [node for node in proto.graph.node if node.domain not in ("", "ai.onnx")]
            if not foreign:
                onnx.checker.check_model(model)
        except (ValueError, DecodeError, onnx.checker.ValidationError):
            code = ErrorCode.MODEL_DESERIALIZE_FAILED
            self._errors.append(ParserError(code, "Failed to parse the ONNX model."))
            return False
        self._errors += [
            ParserError(ErrorCode.UNSUPPORTED_NODE, "no importer is registered for it", node)
            for node in foreign
        ]
        network._model = model
        network._inputs = [_tensor(value) for value in proto.graph.input]
        network._outputs = [_tensor(value) for value in proto.graph.output]
        return not self._errors


def _tensor(value: onnx.ValueInfoProto) -> ITensor:
    kind = value.type.tensor_type
    sides = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return ITensor(value.name, sides, _TYPES.get(kind.elem_type, DataType.INT64))


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Shape, Shape, Shape]] = {}

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache:
    def __init__(self, entries: dict[str, Any]) -> None:
        self._entries = entries

    def serialize(self) -> IHostMemory:
        return IHostMemory(TIMING + json.dumps(self._entries, sort_keys=True).encode())


class IBuilderConfig:
    progress_monitor: Any = None

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._pools: dict[MemoryPoolType, int] = {}

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[pool] = int(pool_size)

    def set_preview_feature(self, feature: PreviewFeature, enable: bool) -> None:
        assert isinstance(feature, PreviewFeature)
        assert isinstance(enable, bool)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        data = bytes(serialized_timing_cache)
        if not data:
            return ITimingCache({"version": version(), "gpu": gpu(), "seen": []})
        try:
            if not data.startswith(TIMING):
                raise ValueError
            return ITimingCache(json.loads(data[len(TIMING) :]))
        except ValueError:
            self._logger.log(ILogger.ERROR, "the timing cache has a damaged header")
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        told = (cache._entries.get("version"), cache._entries.get("gpu"))
        if told != (version(), gpu()) and not ignore_mismatch:
            self._logger.log(ILogger.WARNING, "the timing cache is of another device or version")
            return False
        self._cache = cache
        return True

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        for shapes in profile._shapes.values():
            if not all(a <= b <= c for a, b, c in zip(*shapes, strict=True)):
                return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1


class Builder:
    def __init__(self, logger: ILogger) -> None:
        whole(logger)
        _start(logger)
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(int(flags))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        log = self._logger.log
        log(ILogger.INFO, f"Graph optimization for {gpu()}")
        log(ILogger.VERBOSE, "a hundred thousand lines of these")
        if not _fits(network, config, log) or not _steps(config):
            return None
        if fault("build"):
            for line in OOM if fault("build") == "oom" else ("Could not find an implementation",):
                log(ILogger.ERROR, line)
            return None
        digest = hashlib.sha256(network._model).hexdigest()
        builds.append(digest)
        if config._cache is not None:
            config._cache._entries["seen"].append(digest)
        head = {
            "version": version(),
            "gpu": gpu(),
            "profiles": [profile._shapes for profile in config._profiles],
            "inputs": [vars(tensor) for tensor in network._inputs],
            "outputs": [vars(tensor) for tensor in network._outputs],
        }
        log(ILogger.INFO, "Engine generation completed")
        return IHostMemory(PLAN + json.dumps(head).encode() + b"\n" + network._model)


def _start(logger: ILogger) -> None:
    if fault("start"):
        logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def _fits(network: INetworkDefinition, config: IBuilderConfig, log: Any) -> bool:
    for tensor in network._inputs:
        for profile in config._profiles or [IOptimizationProfile()]:
            shapes = profile._shapes.get(tensor.name)
            if shapes is None:
                if -1 in tensor.shape:
                    log(ILogger.ERROR, f"{tensor.name}: no optimization profile has been defined")
                    return False
                continue
            for shape in shapes:
                sides = zip(shape, tensor.shape, strict=True)
                if any(own not in (-1, side) for side, own in sides):
                    log(ILogger.ERROR, f"{tensor.name}: {shape} is not {tensor.shape}")
                    return False
    return True


def _steps(config: IBuilderConfig) -> bool:
    """False when the monitor wants an end."""
    monitor = config.progress_monitor
    if monitor is None:
        return True
    whole(monitor)
    steps = 4
    monitor.phase_start("Building Engine", None, steps)
    going = all(monitor.step_complete("Building Engine", step) for step in range(steps))
    monitor.phase_finish("Building Engine")
    return going


def types_of(model: bytes) -> dict[str, str]:
    """NumPy's names of the types of inputs and outputs."""
    graph = onnx.load_model_from_string(model).graph
    return {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in (*graph.input, *graph.output)
    }
