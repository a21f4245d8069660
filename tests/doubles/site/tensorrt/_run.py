"""Plans at work: ONNX Runtime on the CPU, on memory given by address."""

# ruff: noqa: ARG002

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from cupy._driver import driver, raw
from cupy.cuda.runtime import CUDARuntimeError

from tensorrt import _capture
from tensorrt._build import PLAN, _start, gpu, types_of
from tensorrt._told import (
    OOM,
    DataType,
    ExecutionContextAllocationStrategy,
    ILogger,
    TensorIOMode,
    fault,
    version,
    whole,
)

Shape = tuple[int, ...]

ALIGN = 256


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        whole(logger)
        _start(logger)
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        data = bytes(serialized_engine)
        head, _, model = data.removeprefix(PLAN).partition(b"\n")
        if not data.startswith(PLAN):
            self._logger.log(ILogger.ERROR, "magicTag: the plan is corrupt")
            return None
        told = json.loads(head)
        if told["version"] != version():
            self._logger.log(
                ILogger.ERROR,
                f"The engine plan file is not compatible with this version of TensorRT, expecting "
                f"library version {version()} got {told['version']}, please rebuild.",
            )
            return None
        if told["gpu"] != gpu():
            self._logger.log(ILogger.ERROR, "The engine plan file is generated on an "
                             "incompatible device")  # fmt: skip
            return None
        return ICudaEngine(told, model, self._logger)


class ICudaEngine:
    def __init__(self, told: dict[str, Any], model: bytes, logger: ILogger) -> None:
        self._logger = logger
        self._tensors = [*told["inputs"], *told["outputs"]]
        self._modes = {tensor["name"]: TensorIOMode.OUTPUT for tensor in told["outputs"]}
        self._modes |= {tensor["name"]: TensorIOMode.INPUT for tensor in told["inputs"]}
        self._profiles = told["profiles"]
        self._types = types_of(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index]["name"])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._modes[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        (found,) = (tensor for tensor in self._tensors if tensor["name"] == name)
        return DataType(found["dtype"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        return [tuple(shape) for shape in self._profiles[profile_index][name]]

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> IExecutionContext:
        return IExecutionContext(self, strategy)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        driver.enter()
        self._engine = engine
        self._log = engine._logger.log
        self._strategy = strategy
        self._profile = 0
        self._shapes: dict[str, Shape] = {}
        self._at: dict[str, int] = {}
        self._scratch = (0, 0)
        self._has_run: object = None

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._log(ILogger.ERROR, f"there is no profile {profile_index}")
            return False
        self._profile = profile_index
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        sides = list(zip(least, shape, most, strict=False))
        if len(shape) != len(most) or any(not a <= b <= c for a, b, c in sides):
            self._log(
                ILogger.ERROR,
                f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (Set dimension "
                f"{list(shape)} for tensor {name} does not satisfy any optimization profiles. "
                f"Valid range for profile {self._profile}: {list(least)}..{list(most)}.)",
            )
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self._shapes:
            return self._shapes[name]
        return self._outputs()[name].shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory == 0 or memory % ALIGN:
            self._log(ILogger.ERROR, f"the address of {name} is not aligned to {ALIGN} bytes")
            return False
        self._at[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        if self._missing(self._shapes):
            return 0
        types = self._engine._types
        return sum(2 * _size(shape, types[name]) for name, shape in self._shapes.items())

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        self._scratch = (memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        driver.enter()
        driver.streams.add(stream_handle)
        missing = [name for name in self._engine._modes if name not in self._at]
        if missing or self._missing(self._shapes):
            self._log(ILogger.ERROR, f"addresses or shapes are not set: {missing}")
            return False
        if self._scratch[1] < self.update_device_memory_size_for_shapes():
            self._log(ILogger.ERROR, "the device memory of the context is too small")
            return False
        if fault("run"):
            for line in OOM if fault("run") == "oom" else ("Error Code 1: Cudnn",):
                self._log(ILogger.ERROR, line)
            return False
        state = (tuple(sorted(self._shapes.items())), tuple(sorted(self._at.items())))
        if (recording := _capture.recording(stream_handle)) is not None:
            if self._has_run != state:
                self._log(ILogger.ERROR, "Error Code 1: Cuda Runtime (operation would make the "
                          "legacy stream depend on a capturing blocking stream)")  # fmt: skip
                return False
            shapes, addresses = dict(self._shapes), dict(self._at)
            recording.append(lambda: self._run(shapes, addresses, self._scratch))
            return True
        self._has_run = state
        self._run(self._shapes, self._at, self._scratch)
        return True

    def _run(self, shapes: dict[str, Shape], at: dict[str, int], scratch: tuple[int, int]) -> None:
        driver.launching()
        types = self._engine._types
        feeds = {name: _seen(at[name], shape, types[name]) for name, shape in shapes.items()}
        names = [n for n, mode in self._engine._modes.items() if mode is TensorIOMode.OUTPUT]
        if any(value is None for value in feeds.values()) or not driver.held(*scratch):
            driver.lost = 700
            return
        for name, value in zip(names, self._engine._session.run(names, feeds), strict=True):
            target = _seen(at[name], value.shape, types[name])
            if target is None:
                driver.lost = 700
                return
            target[...] = value
        _seen(scratch[0], (scratch[1],), "uint8")[...] = 0xA5  # type: ignore[index]
        driver.launched()

    def _missing(self, shapes: dict[str, Shape]) -> list[str]:
        modes = self._engine._modes.items()
        return [name for name, mode in modes if mode is TensorIOMode.INPUT and name not in shapes]

    def _outputs(self) -> dict[str, np.ndarray]:
        """By a run on zeros: the double has no other way to know shapes."""
        if self._missing(self._shapes):
            raise ValueError("input shapes are not set")
        types = self._engine._types
        feeds = {name: np.zeros(shape, types[name]) for name, shape in self._shapes.items()}
        names: Sequence[str] = [each.name for each in self._engine._session.get_outputs()]
        found = self._engine._session.run(names, feeds)
        return dict(zip(names, found, strict=True))


def _seen(address: int, shape: Shape, dtype: str) -> np.ndarray | None:
    """Device memory as an array, None where there is none."""
    size = _size(shape, dtype)
    try:
        driver.check(address, size)
    except CUDARuntimeError:
        return None
    return raw(address, size).view(dtype).reshape(shape)


def _size(shape: Shape, dtype: str) -> int:
    """Bytes."""
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
