"""CUDA graphs for the doubles: work given to a stream while it records is kept, not done.

Only TensorRT's work is recorded here, so these methods are added to the double of CuPy's streams by
this package.
"""

# ruff: noqa: ARG001, ARG002

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
from cupy._driver import driver
from cupy.cuda.runtime import CUDARuntimeError

from tensorrt._told import fault

Work = Callable[[], None]

UNSUPPORTED = 900
"""cudaErrorStreamCaptureUnsupported"""

_recording: dict[int, list[Work]] = {}


def recording(stream: int) -> list[Work] | None:
    """Where work for the stream is to be kept; None while it is to be done."""
    return _recording.get(stream)


class Graph:
    def __init__(self, work: list[Work]) -> None:
        self._work = work

    def launch(self, stream: Any = None) -> None:
        driver.enter()
        for each in self._work:
            each()


def _begin_capture(self: Any, mode: int | None = None) -> None:
    driver.enter()
    if self.ptr == 0 or self.ptr in _recording or fault("graph"):
        raise CUDARuntimeError(UNSUPPORTED)
    _recording[self.ptr] = []


def _end_capture(self: Any) -> Graph:
    driver.enter()
    if self.ptr not in _recording:
        raise CUDARuntimeError(UNSUPPORTED)
    return Graph(_recording.pop(self.ptr))


def _no_waiting(wait: Callable[[int], None]) -> Callable[[int], None]:
    def checked(stream: int) -> None:
        if stream in _recording:
            raise CUDARuntimeError(UNSUPPORTED)
        wait(stream)

    return checked


def install() -> None:
    cupy.cuda.Stream.begin_capture = _begin_capture
    cupy.cuda.Stream.end_capture = _end_capture
    cupy.cuda.runtime.streamSynchronize = _no_waiting(cupy.cuda.runtime.streamSynchronize)
