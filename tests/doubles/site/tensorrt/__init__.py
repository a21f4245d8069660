"""The double of TensorRT's Python package, version 11: the part of it that is used here.

Compiling keeps the ONNX model, running it is ONNX Runtime on the CPU, on the memory that addresses
name (the double of CuPy's device memory). What TensorRT refuses, this refuses: shapes outside of
the profiles, plans of other versions or GPUs, addresses that are not set, calls that record a graph
before they were made once. As there, most failures are a message to the logger and False or None.

Set from outside, read at each call:
  DOUBLE_TENSORRT_VERSION  the version (11.4.0.106)
  DOUBLE_TENSORRT_FAULTS   `build=oom`, `build=no`: compiling fails; `run=oom`, `run=no`: each run;
                           `start=no`: no builder and no runtime; `graph=no`: nothing is recorded
"""

from __future__ import annotations

from typing import Any

from tensorrt import _capture
from tensorrt._build import (
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    ITimingCache,
    OnnxParser,
    ParserError,
    builds,
)
from tensorrt._run import ICudaEngine, IExecutionContext, Runtime
from tensorrt._told import (
    DataType,
    ErrorCode,
    ExecutionContextAllocationStrategy,
    IHostMemory,
    ILogger,
    IProgressMonitor,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    PreviewFeature,
    TensorIOMode,
    version,
)

__all__ = [
    "Builder",
    "DataType",
    "ErrorCode",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "PreviewFeature",
    "Runtime",
    "TensorIOMode",
    "builds",
]

_capture.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version()
    raise AttributeError(f"module 'tensorrt' has no attribute {name!r}")
