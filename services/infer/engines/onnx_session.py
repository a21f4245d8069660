"""ONNX Runtime, opened and asked the same way by every engine that uses it. Its one importer."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from shared.errors import EngineError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class Value(Protocol):
    """An input or output of a model. `shape`: a number, or a name or None where it is free."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class Session(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def get_inputs(self) -> Sequence[Value]: ...
    def get_outputs(self) -> Sequence[Value]: ...
    def get_providers(self) -> Sequence[str]: ...
    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]: ...
    def io_binding(self) -> Any: ...
    def run_with_iobinding(self, binding: Any) -> None: ...


# ONNX Runtime's errors have no common base
ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)

RUN_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, MemoryError, ValueError, IndexError)
"""Of a model that is not what its entry says: raised while it runs, or its outputs are read."""

_OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "Available memory of")
"""What ONNX Runtime's allocators say, and CUDA, and the arena at its limit."""


def open_session(
    model: Path, threads: int, provider: str = CPU, options: Mapping[str, str] | None = None
) -> Session:
    """A session whose work `provider` does, as far as it can; the CPU does the rest.

    Raises one of ORT_ERRORS for what is no model; EngineError where there is no such provider here,
    which ONNX Runtime would otherwise pass over without a word.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # several workers share the cores: waiting threads must not burn them
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == CPU:
        on_cpu: Session = ort.InferenceSession(str(model), settings, providers=[CPU])
        return on_cpu
    if provider not in ort.get_available_providers():
        raise EngineError(
            f"This ONNX Runtime has no {provider}; install onnxruntime-gpu instead of onnxruntime."
        )
    said = _preload()
    chain = [(provider, dict(options or {})), CPU]
    try:
        # a fallback would print, and go on without the provider
        session: Session = ort.InferenceSession(
            str(model), settings, providers=chain, enable_fallback=0
        )
    except (ort_errors.EPFail, ValueError) as error:
        raise EngineError(f"ONNX Runtime can't open {provider} ({told(error)}).") from error
    if provider not in session.get_providers():
        raise EngineError(
            f"ONNX Runtime can't load {provider}: its CUDA or cuDNN libraries are missing or of "
            f"another version than onnxruntime-gpu was made for{said}."
        )
    return session


def _preload() -> str:
    """Load CUDA's libraries from where pip puts them; what is said of missing ones, as part of a
    sentence. ONNX Runtime prints it, and a worker's standard output is a log."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    text = " ".join(printed.getvalue().split())[:300]
    return f" ({text})" if text else ""


def is_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime failed for want of memory, of host or device."""
    return isinstance(error, MemoryError) or any(mark in str(error) for mark in _OUT_OF_MEMORY)


def told(error: Exception) -> str:
    """As part of a sentence: ONNX Runtime uses several lines."""
    return " ".join(str(error).split())[:300]
