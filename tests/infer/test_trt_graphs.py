"""Recorded work, on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from shared.cuda.graphs import record
from shared.errors import EngineError

if TYPE_CHECKING:
    from shared.cuda.device import Device


@pytest.fixture
def recorder(device: Device, vendor: str) -> Device:
    """The double of TensorRT brings the double of recording along."""
    if vendor == "double":
        import tensorrt  # noqa: F401
    return device


def test_recorded_work_is_done_with_each_launch_and_not_before(
    recorder: Device, vendor: str
) -> None:
    if vendor == "double":
        pytest.skip("the double records TensorRT's work only")
    source, target = recorder.empty((64,)), recorder.empty((64,))
    back = np.zeros(64, np.uint8)
    recorder.upload(np.zeros(64, np.uint8), target)
    recorder.upload(np.full(64, 7, np.uint8), source)
    graph = record(recorder, lambda: recorder.copy(source, target))
    recorder.download(target, back)
    assert not back.any()
    for value in (7, 9):
        recorder.upload(np.full(64, value, np.uint8), source)
        graph.launch()
        recorder.download(target, back)
        assert set(back.tolist()) == {value}


def test_work_that_fails_while_it_is_recorded_leaves_the_stream_usable(recorder: Device) -> None:
    def fails() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        record(recorder, fails)
    recorder.finish()
    record(recorder, lambda: None).launch()
    recorder.finish()


def test_waiting_for_the_device_can_not_be_recorded(recorder: Device) -> None:
    with pytest.raises(EngineError):
        record(recorder, recorder.finish)
    recorder.finish()
