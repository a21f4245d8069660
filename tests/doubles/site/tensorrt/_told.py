"""Names, numbers and messages."""

from __future__ import annotations

import os
from enum import IntEnum

OOM = (
    "[defaultAllocator.cpp::allocate::57] Error Code 1: Cuda Runtime (out of memory)",
    "Requested amount of GPU memory (1073741824 bytes) could not be allocated.",
)


def version() -> str:
    return os.environ.get("DOUBLE_TENSORRT_VERSION", "11.4.0.106")


def fault(kind: str) -> str:
    """What is to go wrong with `kind`, "" for nothing."""
    told = os.environ.get("DOUBLE_TENSORRT_FAULTS", "")
    faults = dict(each.split("=") for each in told.split(",") if each)
    return faults.get(kind, "")


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        self._whole = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError('Tried to call pure virtual function "ILogger::log"')


def whole(thing: object) -> None:
    """A class derived from one of pybind11's has to call its constructor."""
    if not getattr(thing, "_whole", False):
        name = type(thing).__name__
        raise TypeError(f"{name}.__init__() must be called when overriding __init__")


class IProgressMonitor:
    def __init__(self) -> None:
        self._whole = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError


class IHostMemory(bytes):
    """Speaks the buffer protocol; `bytes(...)` copies it."""

    @property
    def nbytes(self) -> int:
        return len(self)


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 0
    PREFER_JIT_PYTHON_PLUGINS = 1
    PREFER_AOT_PYTHON_PLUGINS = 2


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class PreviewFeature(IntEnum):
    ALIASED_PLUGIN_IO_10_03 = 0
    RUNTIME_ACTIVATION_RESIZE_10_10 = 1


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    INT64 = 8


class ErrorCode(IntEnum):
    """Of the parser."""

    SUCCESS = 0
    INTERNAL_ERROR = 1
    MEM_ALLOC_FAILED = 2
    MODEL_DESERIALIZE_FAILED = 3
    INVALID_VALUE = 4
    INVALID_GRAPH = 5
    INVALID_NODE = 6
    UNSUPPORTED_GRAPH = 7
    UNSUPPORTED_NODE = 8
