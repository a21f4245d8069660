"""How busy and how full this host's GPUs are: for Prometheus, and for `GET /v1/system`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from shared.gpu.board import GpuBoard, GpuRecord
from shared.gpu.nvml import Handle, Nvml, text
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
    uuid: str | None = None
    name: str | None = None

    def record(self) -> GpuRecord:
        """For others' eyes."""
        return GpuRecord(
            uuid=self.uuid or str(self.index),
            name=self.name or "GPU",
            memory_used_bytes=self.memory_used_bytes,
            memory_total_bytes=self.memory_total_bytes,
            busy=self.busy,
            decoder_busy=self.decoder_busy,
            encoder_busy=self.encoder_busy,
        )


class Gpus:
    """NVML, opened once. Use from one thread."""

    def __init__(self, nvml: ModuleType | None = None) -> None:
        """`nvml`: instead of pynvml. Raises nothing: without a driver there are no GPUs."""
        self._nvml = Nvml(nvml)

    def loads(self) -> list[GpuLoad]:
        """Every GPU that answers, by index. Blocks for milliseconds, with a sick driver longer."""
        return [self._load(index, handle) for index, handle in self._nvml.handles()]

    def close(self) -> None:
        """NVML is used no more."""
        self._nvml.close()

    def _load(self, index: int, device: Handle) -> GpuLoad:
        told = self._nvml.told
        used = told(lambda nvml: int(nvml.nvmlDeviceGetMemoryInfo(device).used))
        total = told(lambda nvml: int(nvml.nvmlDeviceGetMemoryInfo(device).total))
        return GpuLoad(
            index=index,
            busy=told(lambda nvml: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100),
            memory_used_bytes=used,
            memory_total_bytes=total,
            # Both answer [percent, sampling period in us].
            decoder_busy=told(lambda nvml: nvml.nvmlDeviceGetDecoderUtilization(device)[0] / 100),
            encoder_busy=told(lambda nvml: nvml.nvmlDeviceGetEncoderUtilization(device)[0] / 100),
            uuid=told(lambda nvml: text(nvml.nvmlDeviceGetUUID(device))),
            name=told(lambda nvml: text(nvml.nvmlDeviceGetName(device))),
        )


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
        meter.forget(metric, gpu=str(index))


def watch_gpus(meter: Meter, budget_mib: int | None, board: GpuBoard | None = None) -> None:
    """Sample this host's GPUs every few seconds, for as long as the process lives, in a thread of
    its own: a driver that hangs holds up nothing else. What is seen is counted, and put on `board`
    if there is one. Returns at once; does nothing where there is no GPU, or nobody to tell."""
    if meter.on or board is not None:
        arguments = (meter, budget_mib, board)
        threading.Thread(target=_watch, args=arguments, name="gpus", daemon=True).start()


def _watch(meter: Meter, budget_mib: int | None, board: GpuBoard | None) -> None:
    watcher, pause = GpuWatcher(Gpus(), meter, budget_mib, board), threading.Event()
    if watcher.step():
        Log(stage="arena").info("GPUs are watched", gpus=watcher.count)
        while not pause.wait(EVERY_S):
            watcher.step()


class GpuWatcher:
    """Looks at all GPUs and tells of them, once per step."""

    def __init__(
        self, gpus: Gpus, meter: Meter, budget_mib: int | None, board: GpuBoard | None
    ) -> None:
        self._gpus = gpus
        self._meter = meter
        self._budget_mib = budget_mib
        self._board = board
        self._known: set[int] = set()

    @property
    def count(self) -> int:
        """GPUs that were ever seen."""
        return len(self._known)

    def step(self) -> bool:
        """False while there is nothing to look at."""
        loads = self._gpus.loads()
        self._known |= {load.index for load in loads}
        if not self._known:
            return False
        for load in loads:
            tell(load, self._meter, self._budget_mib)
        for index in self._known - {load.index for load in loads}:
            forget(index, self._meter)
        if self._board is not None:
            self._board.put([load.record() for load in loads])
        return True
