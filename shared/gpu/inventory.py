"""Which GPUs this host has, what they can do, and which of them are used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from types import ModuleType

from pydantic import Field

from shared.errors import ErrorCode, PermanentError
from shared.gpu.matrix import COMPUTE, DRIVER, NO_NVENC, unmet, version_of
from shared.gpu.nvml import Handle, Nvml, text
from shared.jobs import Model
from shared.settings import Settings

MIB = 1024 * 1024

# nvml.h, nvmlClocksEventReason*: what slows a GPU down that should not. Idle clocks, clocks that
# somebody set, and a power cap at work under load are everyday.
THROTTLES = {
    0x08: "hardware slowdown",
    0x20: "too hot (software)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Where others (SLURM, who shares a machine by hand) say which devices a process may use."""
ENCODER_H264 = 0
"""NVML_ENCODER_QUERY_H264."""
UNCORRECTED, VOLATILE = 1, 0
"""NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC: since the driver was loaded."""


class MigSlice(Model):
    """A part of a GPU that is used like a GPU of its own."""

    uuid: str
    profile: str = Field(description="like 1g.10gb")
    memory_bytes: int | None = None
    decoders: int | None = Field(default=None, description="engines of NVDEC")
    encoders: int | None = Field(default=None, description="engines of NVENC")


class Gpu(Model):
    """One GPU. What NVML does not tell is None."""

    index: int
    uuid: str
    name: str
    compute: tuple[int, int] | None = Field(default=None, description="compute capability")
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    mig: bool | None = Field(default=None, description="divided into slices; None: it can't be")
    slices: tuple[MigSlice, ...] = ()
    nvenc: bool | None = Field(
        default=None, description="has an encoder, by its name and NVML; a real encode decides"
    )
    persistence: bool | None = Field(default=None, description="the driver stays loaded")
    ecc_errors: int | None = Field(
        default=None, description="uncorrected, since the driver's start"
    )
    throttled: tuple[str, ...] = Field(default=(), description="why it is slowed down now")
    processes: int | None = Field(default=None, description="that compute on it now")


class Hardware(Model):
    """What NVML knows of this host. `reason`: why nothing, "" where there is something."""

    driver: str | None = None
    cuda: str | None = Field(default=None, description="newest that the driver supports")
    gpus: tuple[Gpu, ...] = ()
    reason: str = ""


def inventory(nvml: ModuleType | None = None) -> Hardware:
    """Ask NVML. Raises nothing; blocks for a tenth of a second, longer where the driver has to be
    loaded first, for ever where it hangs: in doubt ask in a process of its own
    (`python -m shared.gpu`)."""
    asked = Nvml(nvml)
    if asked.module is None:
        return Hardware(reason=asked.reason)
    try:
        gpus = tuple(_gpu(asked, index, handle) for index, handle in asked.handles())
        cuda = asked.told(lambda nvml: int(nvml.nvmlSystemGetCudaDriverVersion()))
        return Hardware(
            driver=asked.told(lambda nvml: text(nvml.nvmlSystemGetDriverVersion())),
            cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            gpus=gpus,
            reason="" if gpus else "the driver shows no GPU to this process",
        )
    finally:
        asked.close()


def devices(settings: Settings, hardware: Hardware | None = None) -> list[str]:
    """UUIDs of the GPUs and MIG slices that the stack uses, in NVML's order; named ones in theirs.

    auto: all whose compute capability will do, of those that CUDA_VISIBLE_DEVICES of this process
    names, where it is set; none with a driver that is too old. Raises PermanentError BAD_OPTION for
    a named one that is not there. Asks NVML where `hardware` is None and anything but none was
    asked for.
    """
    wanted = settings.gpu_devices
    if wanted == "none":
        return []
    known = inventory() if hardware is None else hardware
    if wanted == "auto":
        if unmet(DRIVER[:1], version_of(known.driver or "")):
            return []
        named = os.environ.get(VISIBLE)
        may = None if named is None else _granted(named, known)
        there = [uuid for gpu in known.gpus if able(gpu) for uuid in units(gpu)]
        return [uuid for uuid in there if may is None or uuid in may]
    _check(wanted, known)
    return list(dict.fromkeys(wanted))


def able(gpu: Gpu) -> bool:
    """True where our parts run on it, as far as its compute capability tells."""
    return gpu.compute is None or not unmet(COMPUTE, gpu.compute)


def units(gpu: Gpu) -> list[str]:
    """UUIDs of what is used of it: itself, or its slices."""
    return [part.uuid for part in gpu.slices] if gpu.mig else [gpu.uuid]


def _granted(named: str, known: Hardware) -> set[str]:
    """UUIDs of GPUs and slices that a value of CUDA_VISIBLE_DEVICES grants: as CUDA reads it, up to
    the first entry that names nothing (an empty one, -1, a word, a prefix of two)."""
    found: set[str] = set()
    for entry in named.split(","):
        uuid = _named(entry.strip(), known)
        if uuid is None:
            break
        found.add(uuid)
    return found


def _named(entry: str, known: Hardware) -> str | None:
    """The device of one entry: an index in the order of PCI addresses, which is NVML's, or a UUID,
    or its beginning. Of a GPU that is divided CUDA shows one slice: its first is meant."""
    whole = {gpu.uuid: gpu for gpu in known.gpus}
    if entry.isascii() and entry.isdigit():
        names = [gpu.uuid for gpu in known.gpus if gpu.index == int(entry)]
    elif entry in ("GPU-", "MIG-") or not entry.startswith(("GPU-", "MIG-")):
        return None
    else:
        everything = [*whole, *(part.uuid for gpu in known.gpus for part in gpu.slices)]
        names = [uuid for uuid in everything if uuid.lower().startswith(entry.lower())]
    if len(names) != 1:
        return None
    gpu = whole.get(names[0])
    return names[0] if gpu is None else next(iter(units(gpu)), None)


def _check(wanted: tuple[str, ...], known: Hardware) -> None:
    there = [uuid for gpu in known.gpus for uuid in units(gpu)]
    for uuid in wanted:
        if uuid in there:
            continue
        divided = next((gpu for gpu in known.gpus if gpu.uuid == uuid), None)
        if divided is not None:
            why = "it is divided (MIG), so name slices of it"
        else:
            why = known.reason or "no such device"
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"gpu.devices (DUALFACE_GPU_DEVICES) names {uuid}: {why}. There are: "
            f"{', '.join(there) or 'none'}. Set it to {'auto, or to those' if there else 'auto'}"
            f"{_also(known)}.",
        )


def _also(known: Hardware) -> str:
    """What else helps, where only the package is lacking."""
    return "; `make setup GPU=1` installs the package" if "nvidia-ml-py" in known.reason else ""


def _gpu(nvml: Nvml, index: int, handle: Handle) -> Gpu:
    told = nvml.told
    name = told(lambda m: text(m.nvmlDeviceGetName(handle))) or "GPU"
    reasons = told(partial(_throttle_reasons, handle)) or 0
    mode = told(lambda m: m.nvmlDeviceGetMigMode(handle)[0])
    return Gpu(
        index=index,
        uuid=told(lambda m: text(m.nvmlDeviceGetUUID(handle))) or f"index {index}",
        name=name,
        compute=told(lambda m: _pair(m.nvmlDeviceGetCudaComputeCapability(handle))),
        memory_total_bytes=told(lambda m: int(m.nvmlDeviceGetMemoryInfo(handle).total)),
        memory_free_bytes=told(lambda m: int(m.nvmlDeviceGetMemoryInfo(handle).free)),
        mig=None if mode is None else bool(mode),
        slices=tuple(_slices(nvml, handle)) if mode else (),
        nvenc=_has_nvenc(nvml, handle, name),
        persistence=told(lambda m: bool(m.nvmlDeviceGetPersistenceMode(handle))),
        ecc_errors=told(
            lambda m: int(m.nvmlDeviceGetTotalEccErrors(handle, UNCORRECTED, VOLATILE))
        ),
        throttled=tuple(why for bit, why in THROTTLES.items() if reasons & bit),
        processes=told(lambda m: len(m.nvmlDeviceGetComputeRunningProcesses(handle))),
    )


def _slices(nvml: Nvml, handle: Handle) -> Iterator[MigSlice]:
    most = nvml.told(lambda m: int(m.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0
    for index in range(most):
        part = nvml.told(partial(_slice, handle, index))
        if part is not None:
            yield part


def _slice(handle: Handle, index: int, nvml: ModuleType) -> MigSlice:
    """Raises NVMLError where there is no slice with this number."""
    part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
    facts = nvml.nvmlDeviceGetAttributes(part)
    return MigSlice(
        uuid=text(nvml.nvmlDeviceGetUUID(part)),
        profile=text(nvml.nvmlDeviceGetName(part)).rpartition("MIG ")[2],
        memory_bytes=int(facts.memorySizeMB) * MIB,
        decoders=int(facts.sharedDecoderCount),
        encoders=int(facts.sharedEncoderCount),
    )


def _has_nvenc(nvml: Nvml, handle: Handle, name: str) -> bool | None:
    if NO_NVENC.search(name):
        return False
    capacity = nvml.told(lambda m: int(m.nvmlDeviceGetEncoderCapacity(handle, ENCODER_H264)))
    # 0 is also what one that is fully in use has.
    return True if capacity else None


def _throttle_reasons(handle: Handle, nvml: ModuleType) -> int:
    """NVML renamed it; older packages have the old name only."""
    ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    return int((ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle))


def _pair(answer: tuple[int, int]) -> tuple[int, int]:
    return int(answer[0]), int(answer[1])
