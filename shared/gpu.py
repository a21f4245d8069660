"""What NVML tells of this host's GPUs: how busy they are, how full. The one importer of `pynvml`.

Where there is no driver, no GPU or no package, there is nothing to tell, and nothing is wrong. A
figure that a device does not have (MIG, older ones) is None, the others are told all the same.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from shared.logs import Log
from shared.metrics import Meter
from shared.metrics.catalogue import (
    GPU_MEMORY_SHARE,
    GPU_MEMORY_USED,
    GPU_UTILIZATION,
    NVDEC_UTILIZATION,
    NVENC_UTILIZATION,
    Metric,
)

EVERY_S = 5.0
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """One GPU at one moment. Shares are 0 to 1 of NVML's last sampling period (up to a second)."""

    index: int
    busy: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    decoder_busy: float | None
    encoder_busy: float | None


class Gpus:
    """NVML, opened once. Use from one thread."""

    def __init__(self, nvml: ModuleType | None = None) -> None:
        """`nvml`: instead of pynvml. Raises nothing: without a driver there are no GPUs."""
        self._nvml = nvml if nvml is not None else _pynvml()
        if self._nvml is not None:
            try:
                self._nvml.nvmlInit()
            except self._nvml.NVMLError:
                self._nvml = None

    def loads(self) -> list[GpuLoad]:
        """Every GPU that answers, by index. Blocks for milliseconds, with a sick driver longer."""
        nvml = self._nvml
        if nvml is None:
            return []
        try:
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError:
            return []
        found = [self._load(nvml, index) for index in range(count)]
        return [load for load in found if load is not None]

    def close(self) -> None:
        """NVML is used no more."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None

    def _load(self, nvml: ModuleType, index: int) -> GpuLoad | None:
        try:
            device = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError:
            return None  # fell off the bus, or is another's

        def told(ask: Callable[[], float]) -> float | None:
            try:
                return ask()
            except nvml.NVMLError:
                return None

        used = told(lambda: nvml.nvmlDeviceGetMemoryInfo(device).used)
        total = told(lambda: nvml.nvmlDeviceGetMemoryInfo(device).total)
        return GpuLoad(
            index=index,
            busy=told(lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100),
            memory_used_bytes=None if used is None else int(used),
            memory_total_bytes=None if total is None else int(total),
            # Both answer [percent, sampling period in us].
            decoder_busy=told(lambda: nvml.nvmlDeviceGetDecoderUtilization(device)[0] / 100),
            encoder_busy=told(lambda: nvml.nvmlDeviceGetEncoderUtilization(device)[0] / 100),
        )


def _pynvml() -> ModuleType | None:
    try:
        import pynvml
    except ImportError:
        return None
    module: ModuleType = pynvml
    return module


SHARES: tuple[tuple[Metric, Callable[[GpuLoad], float | None]], ...] = (
    (GPU_UTILIZATION, lambda load: load.busy),
    (NVDEC_UTILIZATION, lambda load: load.decoder_busy),
    (NVENC_UTILIZATION, lambda load: load.encoder_busy),
)


def tell(load: GpuLoad, meter: Meter, budget_mib: int | None) -> None:
    """Set the figures of one GPU; `budget_mib`: VRAM that may be used, None: all there is."""
    gpu = str(load.index)
    for metric, of in SHARES:
        share = of(load)
        if share is not None:
            meter.set(metric, share, gpu=gpu)
    used, total = load.memory_used_bytes, load.memory_total_bytes
    if used is not None:
        meter.set(GPU_MEMORY_USED, used, gpu=gpu)
        budget = budget_mib * MIB if budget_mib else total
        if budget:
            meter.set(GPU_MEMORY_SHARE, used / budget, gpu=gpu)


def forget(index: int, meter: Meter) -> None:
    """A GPU that does not answer any more has no figures, rather than its last ones."""
    for metric in (*(share for share, _ in SHARES), GPU_MEMORY_USED, GPU_MEMORY_SHARE):
        meter.set(metric, math.nan, gpu=str(index))


def watch_gpus(meter: Meter, budget_mib: int | None) -> None:
    """Sample this host's GPUs every few seconds, for as long as the process lives, in a thread of
    its own: a driver that hangs holds up nothing else. Returns at once; nothing where there is no
    GPU or nobody counts."""
    if meter.on:
        arguments = (meter, budget_mib)
        threading.Thread(target=_watch, args=arguments, name="gpus", daemon=True).start()


def _watch(meter: Meter, budget_mib: int | None) -> None:
    gpus = Gpus()
    loads = gpus.loads()
    if loads:
        Log(stage="arena").info("GPUs are watched", gpus=len(loads))
    pause, known = threading.Event(), {load.index for load in loads}
    while known:
        for load in loads:
            tell(load, meter, budget_mib)
        for index in known - {load.index for load in loads}:
            forget(index, meter)
        pause.wait(EVERY_S)
        loads = gpus.loads()
