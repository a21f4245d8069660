"""Facts about detectors that are made when they are first needed."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import pytest

from services.infer.engines import Detectors, LazyDetector
from services.infer.engines.base import Detector
from shared.errors import EngineError, OutOfMemoryError
from shared.redisdb import Connection
from tests.runtimes import runtime


class Large:
    """What a detector has taken by the time it fails."""


@pytest.mark.parametrize("error", [EngineError("it broke", True), OutOfMemoryError("of a GPU")])
def test_a_detector_that_can_not_be_made_is_not_tried_again_and_keeps_nothing(
    error: EngineError | OutOfMemoryError,
) -> None:
    """The frames of a traceback keep what lies in them; that of an error raised again grows."""
    taken = list["weakref.ref[Large]"]()

    def make() -> Detector:
        large = Large()
        taken.append(weakref.ref(large))
        raise type(error)(*error.args)

    lazy, lengths = LazyDetector("engine", make), list[int]()
    for _ in range(4):
        with pytest.raises(type(error), match=error.message) as caught:
            lazy.get()
        assert caught.value.args == error.args
        lengths.append(len(caught.traceback))
        del caught
    assert len(taken) == 1
    assert lengths[1:] == [lengths[1]] * 3
    gc.collect()
    assert taken[0]() is None


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("gpu_device", ["GPU-0", ""])
def test_tensorrt_is_imported_before_a_worker_of_a_gpu_says_that_it_lives(
    redis: Connection, tmp_path: Path, gpu_device: str
) -> None:
    """And by no other worker: it is large."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        del sys.modules[name]
    made, _ = runtime(redis, tmp_path, gpu_device=gpu_device, cache_dir=tmp_path)
    Detectors().warm_up(made)
    assert ("tensorrt" in sys.modules) == bool(gpu_device)


def test_a_worker_of_a_gpu_starts_without_tensorrt(
    redis: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    Detectors().warm_up(runtime(redis, tmp_path, gpu_device="GPU-0")[0])
