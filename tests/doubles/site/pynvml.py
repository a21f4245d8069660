# ruff: noqa: N802 - NVML's names
"""Stands in for pynvml (nvidia-ml-py 13): the functions that we call, over made-up hardware.

`DOUBLE_HARDWARE` is a name of `MACHINES`, or the same as JSON. What a real device refuses with
NVML_ERROR_NOT_SUPPORTED is refused here as well.
"""

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace
from typing import Any, NamedTuple

GIB = 1 << 30

NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18

WORDS = {
    NVML_ERROR_NOT_SUPPORTED: "Not Supported",
    NVML_ERROR_NOT_FOUND: "Not Found",
    NVML_ERROR_DRIVER_NOT_LOADED: "Driver Not Loaded",
    NVML_ERROR_LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    NVML_ERROR_LIB_RM_VERSION_MISMATCH: "Driver/library version mismatch",
}


class NVMLError(Exception):
    """As pynvml's: every answer but success."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return WORDS[self.value]


def _gpu(name: str, compute: tuple[int, int], gib: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "compute": list(compute), "memory": gib * GIB, **more}


MACHINES: dict[str, dict[str, Any]] = {
    "none": {"gpus": []},
    "no-driver": {"init": NVML_ERROR_LIBRARY_NOT_FOUND},
    "mismatch": {"init": NVML_ERROR_LIB_RM_VERSION_MISMATCH},
    "hang": {"init": "hang"},
    "crash": {"init": "crash"},
    "gtx1660": {"gpus": [_gpu("NVIDIA GeForce GTX 1660", (7, 5), 6, encoder=100)]},
    "rtx4090": {"gpus": [_gpu("NVIDIA GeForce RTX 4090", (8, 9), 24, encoder=100)]},
    "t4": {"gpus": [_gpu("Tesla T4", (7, 5), 16, encoder=100, ecc=0)]},
    "a100": {"gpus": [_gpu("NVIDIA A100-SXM4-80GB", (8, 0), 80, mig=False, ecc=0)]},
    "h100": {"gpus": [_gpu("NVIDIA H100 80GB HBM3", (9, 0), 80, mig=False, ecc=0)]},
    "h100-mig": {
        "gpus": [
            _gpu(
                "NVIDIA H100 80GB HBM3", (9, 0), 80, mig=True, ecc=0, busy=None,
                slices=[["1g.10gb", 10, 1], ["3g.40gb", 40, 3]],
            )
        ]
    },
    "two-gpus": {
        "gpus": [
            _gpu("NVIDIA GeForce RTX 4090", (8, 9), 24, encoder=100),
            _gpu("NVIDIA GeForce GTX 1080", (6, 1), 8, encoder=100),
        ]
    },
    "old-driver": {
        "driver": "535.183.01", "cuda": 12020,
        "gpus": [_gpu("Tesla T4", (7, 5), 16, encoder=100, ecc=0)],
    },
    "sick": {
        "gpus": [
            _gpu("Tesla T4", (7, 5), 16, encoder=100, ecc=3, throttle=0x40, persistence=0)
        ]
    },
}  # fmt: skip


class _Device(NamedTuple):
    """What a handle stands for; `part`: number of the slice, None for the GPU."""

    index: int
    part: int | None = None


_STATE: dict[str, dict[str, Any]] = {}


def _machine() -> dict[str, Any]:
    return _STATE["machine"]


def _facts(device: _Device) -> dict[str, Any]:
    found: dict[str, Any] = _machine()["gpus"][device.index]
    return found


def _told(device: _Device, name: str) -> Any:
    value = _facts(device).get(name)
    if value is None or device.part is not None:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return value


def nvmlInit() -> None:
    chosen = os.environ.get("DOUBLE_HARDWARE", "none")
    _STATE["machine"] = json.loads(chosen) if chosen.startswith("{") else MACHINES[chosen]
    how = _machine().get("init")
    if how == "hang":
        while True:
            time.sleep(60)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how is not None:
        raise NVMLError(how)


def nvmlShutdown() -> None:
    _STATE.clear()


def nvmlSystemGetDriverVersion() -> str:
    return str(_machine().get("driver", "580.95.05"))


def nvmlSystemGetCudaDriverVersion() -> int:
    return int(_machine().get("cuda", 13000))


def nvmlDeviceGetCount() -> int:
    return len(_machine()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> _Device:
    return _Device(index)


def nvmlDeviceGetUUID(device: _Device) -> str:
    number = f"{device.index:08x}-0000-0000-0000-"
    if device.part is None:
        return f"GPU-{number}000000000000"
    return f"MIG-{number}{device.part + 1:012x}"


def nvmlDeviceGetName(device: _Device) -> str:
    name = str(_facts(device)["name"])
    return name if device.part is None else f"{name} MIG {_part(device)[0]}"


def nvmlDeviceGetCudaComputeCapability(device: _Device) -> tuple[int, int]:
    major, minor = _facts(device)["compute"]
    return major, minor


def nvmlDeviceGetMemoryInfo(device: _Device) -> SimpleNamespace:
    total = _facts(device)["memory"] if device.part is None else _part(device)[1] * GIB
    used = total // 8
    return SimpleNamespace(total=total, used=used, free=total - used)


def nvmlDeviceGetMigMode(device: _Device) -> list[int]:
    mode = int(_told(device, "mig"))
    return [mode, mode]


def nvmlDeviceGetMaxMigDeviceCount(device: _Device) -> int:
    return 7 if "mig" in _facts(device) else 0


def nvmlDeviceGetMigDeviceHandleByIndex(device: _Device, index: int) -> _Device:
    # As on a real one, slices need not be the first of their numbers.
    if index % 2 or index // 2 >= len(_facts(device).get("slices", [])):
        raise NVMLError(NVML_ERROR_NOT_FOUND)
    return _Device(device.index, index // 2)


def nvmlDeviceGetAttributes(device: _Device) -> SimpleNamespace:
    if device.part is None:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    _, gib, decoders = _part(device)
    return SimpleNamespace(
        memorySizeMB=gib * 1024, sharedDecoderCount=decoders, sharedEncoderCount=0
    )


def nvmlDeviceGetEncoderCapacity(device: _Device, kind: int) -> int:
    del kind
    return int(_told(device, "encoder"))


def nvmlDeviceGetPersistenceMode(device: _Device) -> int:
    return int(_facts(device).get("persistence", 1))


def nvmlDeviceGetTotalEccErrors(device: _Device, error: int, counter: int) -> int:
    assert (error, counter) == (1, 0)  # uncorrected, volatile
    return int(_told(device, "ecc"))


def nvmlDeviceGetCurrentClocksEventReasons(device: _Device) -> int:
    return int(_facts(device).get("throttle", 1))  # idle


def nvmlDeviceGetComputeRunningProcesses(device: _Device) -> list[SimpleNamespace]:
    del device
    return [SimpleNamespace(pid=1, usedGpuMemory=None)]


def nvmlDeviceGetUtilizationRates(device: _Device) -> SimpleNamespace:
    return SimpleNamespace(gpu=_busy(device), memory=10)


def nvmlDeviceGetDecoderUtilization(device: _Device) -> list[int]:
    return [_busy(device), 167000]


def nvmlDeviceGetEncoderUtilization(device: _Device) -> list[int]:
    if "encoder" not in _facts(device):
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return [_busy(device), 167000]


def _busy(device: _Device) -> int:
    busy = _facts(device).get("busy", 50)
    if busy is None:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return int(busy)


def _part(device: _Device) -> list[Any]:
    assert device.part is not None
    found: list[Any] = _facts(device)["slices"][device.part]
    return found
