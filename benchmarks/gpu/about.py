"""The machine, as far as figures depend on it."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.gpu.results import Machine
from shared.cuda.counts import decoding_engines
from shared.cuda.own import OwnDevice
from shared.gpu import Gpus, inventory
from shared.metrics import Meter
from shared.settings import Settings

DOUBLE = "Double of a GPU"
"""What the double of CuPy calls its device."""


@dataclass(frozen=True)
class Gpu:
    """The device as CUDA tells of it. `nvdec_engines`: None where nobody tells."""

    name: str
    uuid: str
    compute: tuple[int, int]
    total_bytes: int
    nvdec_engines: int | None = None

    @property
    def double(self) -> bool:
        """True for the doubles of the vendors' packages."""
        return self.name == DOUBLE


def look(_: object, settings: Settings) -> Gpu:
    """Opens the device; for a process of its own."""
    device = OwnDevice(settings, Meter())()
    engines = _slice_engines(device.uuid) or decoding_engines()
    return Gpu(device.name, device.uuid, device.compute, device.total_bytes, engines)


def _slice_engines(uuid: str) -> int | None:
    """Of NVDEC, by NVML, which tells it of MIG slices alone."""
    slices = [part for gpu in inventory().gpus for part in gpu.slices]
    return next((part.decoders for part in slices if part.uuid == uuid), None)


def machine(gpu: Gpu) -> Machine:
    """The whole of it."""
    hardware = inventory()
    return Machine(
        gpu=gpu.name,
        gpu_uuid=gpu.uuid,
        compute=gpu.compute,
        memory_bytes=gpu.total_bytes,
        busy_before=_busy(gpu.uuid),
        driver=hardware.driver,
        cuda_of_driver=hardware.cuda,
        cores=len(os.sched_getaffinity(0)),
        processor=_processor(),
        memory_of_host_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        system=platform.platform(),
        python=platform.python_version(),
        packages=_packages(),
        commit=_commit(),
    )


def _busy(uuid: str) -> float | None:
    """How busy the GPU is before anything begins: others on it spoil the figures."""
    gpus = Gpus()
    try:
        return next((load.busy for load in gpus.loads() if load.uuid == uuid), None)
    finally:
        gpus.close()


def _packages() -> dict[str, str]:
    """All that are installed: what a figure depends on is known later."""
    found = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return {name: version for name, version in found.items() if name}


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """Of the checkout; with + where something in it was changed."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
