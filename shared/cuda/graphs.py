"""CUDA graphs: work that is always the same, recorded once and given again as one launch.

Starting a kernel costs the host 3 to 5 us, and a small network has a hundred of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shared.cuda.device import Device
from shared.cuda.errors import mapped
from shared.errors import EngineError


class Graph:
    """Recorded work. What it reads and writes is fixed by address: that memory has to live on."""

    def __init__(self, graph: Any, stream: Any) -> None:
        """Made by `record`."""
        self._graph = graph
        self._stream = stream

    def launch(self) -> None:
        """Do it again, in order on the device's stream. Returns at once."""
        with mapped("launching a graph"):
            self._graph.launch(self._stream)


def record(device: Device, work: Callable[[], None]) -> Graph:
    """What `work` gives to the device's stream; it is recorded and not done.

    `work` may neither allocate device memory nor wait for the device, and should have been done
    once before, for what it does the first time only. Raises EngineError when it can't be recorded;
    the stream is as before then. What `work` raises passes.
    """
    stream = device.queue
    with mapped("recording a graph"):
        stream.begin_capture()
    try:
        work()
    except BaseException:
        with suppress(EngineError), mapped("recording a graph"):
            stream.end_capture()  # else the stream records for ever
        raise
    with mapped("recording a graph"):
        return Graph(stream.end_capture(), stream)
