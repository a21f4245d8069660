"""The one GPU of this process: named by the settings, opened when it is first needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shared.cuda.memory import Direction, Staging
from shared.errors import EngineError
from shared.metrics import Meter
from shared.metrics.catalogue import COPIED
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.cuda.device import Device


def pin(settings: Settings) -> None:
    """Have CUDA, and all libraries on it, see the GPU of this process as the only one. Called after
    the fork, before anything of CUDA; does nothing where the process has no GPU. What was inherited
    counted when the GPU was chosen (`shared.gpu.devices`)."""
    if settings.gpu_device:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.gpu_device
        # As NVML counts, where anybody names a device by its number; CUDA's default is another.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"


class OwnDevice:
    """Opens the device once; for the thread that works."""

    def __init__(self, settings: Settings, meter: Meter) -> None:
        self._settings = settings
        self._meter = meter
        self._device: Device | None = None
        self._staging: Staging | None = None

    def __call__(self) -> Device:
        """The device. Raises EngineError where the process has none, or it can't be opened."""
        if self._device is None:
            if not self._settings.gpu_device:
                raise EngineError("This process has no GPU; set DUALFACE_GPU_DEVICE to one's UUID.")
            # Seconds, for those who have a GPU.
            from shared.cuda.device import Device

            pin(self._settings)
            # Compiled kernels; in a container this folder can be written, a home can't.
            os.environ.setdefault("CUPY_CACHE_DIR", str(self._settings.state_dir / "kernels"))
            self._device = Device(on_copy=self._count, visible=self._settings.gpu_device)
        return self._device

    def staging(self) -> Staging:
        """The copies in host memory, for engines that work there. Raises as the device."""
        if self._staging is None:
            self._staging = Staging(self())
        return self._staging

    def _count(self, direction: Direction, size: int) -> None:
        self._meter.count(COPIED, size, stage=self._meter.stage, direction=direction)
