"""What is told of GPUs, against a stand-in for pynvml that follows NVML's documented interface."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from shared.gpu import GpuLoad, Gpus, forget, tell, watch_gpus
from shared.metrics import Meter
from shared.metrics.catalogue import (
    GPU_MEMORY_SHARE,
    GPU_MEMORY_USED,
    GPU_UTILIZATION,
    NVDEC_UTILIZATION,
    NVENC_UTILIZATION,
)
from tests.metrics.notes import Notes

GIB = 1 << 30


class NVMLError(Exception):
    """As pynvml's: every answer but success."""


@dataclass
class FakeNvml:
    """Two GPUs; of the functions named in `refused`, those of GPU 1 are not supported. Percentages
    as NVML gives them; the utilisation of the codecs comes with its sampling period in us."""

    refused: tuple[str, ...] = ()
    driver: bool = True
    count: int = 2
    NVMLError: type[Exception] = NVMLError
    calls: list[str] = field(default_factory=list)

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name, as are all below
        if not self.driver:
            raise NVMLError("NVML Shared Library Not Found")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.calls.append("nvmlShutdown")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        self._may("nvmlDeviceGetHandleByIndex", index)
        return index

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:  # noqa: N802
        self._may("nvmlDeviceGetUtilizationRates", device)
        return SimpleNamespace(gpu=80 + device, memory=30)

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:  # noqa: N802
        self._may("nvmlDeviceGetMemoryInfo", device)
        return SimpleNamespace(total=80 * GIB, free=60 * GIB, used=20 * GIB)

    def nvmlDeviceGetDecoderUtilization(self, device: int) -> list[int]:  # noqa: N802
        self._may("nvmlDeviceGetDecoderUtilization", device)
        return [50, 167000]

    def nvmlDeviceGetEncoderUtilization(self, device: int) -> list[int]:  # noqa: N802
        self._may("nvmlDeviceGetEncoderUtilization", device)
        return [25, 167000]

    def _may(self, name: str, device: int) -> None:
        if device == 1 and name in self.refused:
            raise NVMLError("Not Supported")


def gpus(nvml: FakeNvml) -> Gpus:
    stand_in: Any = nvml
    return Gpus(stand_in)


def test_percentages_become_shares() -> None:
    first, second = gpus(FakeNvml()).loads()
    assert first == GpuLoad(0, 0.8, 20 * GIB, 80 * GIB, 0.5, 0.25)
    assert second.busy == 0.81


@pytest.mark.parametrize("budget_mib", [None, 40 * 1024])
def test_figures_are_told_by_gpu_and_memory_as_a_share_of_the_budget(
    budget_mib: int | None,
) -> None:
    notes = Notes()
    for load in gpus(FakeNvml()).loads():
        tell(load, Meter("arena", notes), budget_mib)
    assert notes.value(GPU_UTILIZATION, "1") == 0.81
    assert notes.value(NVDEC_UTILIZATION, "0") == 0.5
    assert notes.value(NVENC_UTILIZATION, "0") == 0.25
    assert notes.value(GPU_MEMORY_USED, "0") == 20 * GIB
    assert notes.value(GPU_MEMORY_SHARE, "0") == (0.5 if budget_mib else 0.25)


def test_a_figure_that_a_gpu_does_not_have_is_left_out() -> None:
    """A100 and H100 have no encoder, parts of one (MIG) no utilisation."""
    notes = Notes()
    refused = ("nvmlDeviceGetEncoderUtilization", "nvmlDeviceGetUtilizationRates")
    for load in gpus(FakeNvml(refused)).loads():
        tell(load, Meter("arena", notes), None)
    assert notes.value(NVENC_UTILIZATION, "0") == 0.25
    assert notes.value(NVENC_UTILIZATION, "1") is None
    assert notes.value(GPU_UTILIZATION, "1") is None
    assert notes.value(NVDEC_UTILIZATION, "1") == 0.5


def test_a_gpu_that_has_fallen_off_the_bus_has_no_figures() -> None:
    (only,) = gpus(FakeNvml(("nvmlDeviceGetHandleByIndex",))).loads()
    assert only.index == 0
    notes = Notes()
    meter = Meter("arena", notes)
    for load in gpus(FakeNvml()).loads():
        tell(load, meter, None)
    assert notes.value(GPU_UTILIZATION, "1") is not None
    forget(1, meter)
    assert math.isnan(notes.values[GPU_UTILIZATION.name, ("1",)])


def test_without_a_driver_there_is_nothing_to_tell_and_nothing_wrong() -> None:
    nvml = FakeNvml(driver=False)
    none = gpus(nvml)
    assert none.loads() == []
    none.close()
    assert nvml.calls == []


def test_this_machine_is_asked_without_an_error() -> None:
    """Whether it has a GPU, the package, both or neither."""
    real = Gpus()
    assert all(0 <= (load.busy or 0) <= 1 for load in real.loads())
    real.close()
    watch_gpus(Meter(), None)
