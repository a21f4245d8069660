"""What runs where on this host: one arena with its stages for each GPU, or one in host memory."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from shared.errors import ErrorCode, PermanentError
from shared.gpu import Gpu, Hardware, MigSlice, devices
from shared.gpu.inventory import units
from shared.settings import MIB, Settings
from shared.settings.places import DETECTED

DEFAULT_ARENA = "cpu0"


def places(settings: Settings, hardware: Hardware) -> list[Settings]:
    """The settings of each arena's processes. Raises PermanentError BAD_OPTION for a GPU that was
    named and can't be had."""
    chosen = devices(settings, hardware)
    if chosen and find_spec("cupy") is None:
        if settings.gpu_devices == "auto":
            return [unprobed(settings)]  # the quick checks say so
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            "gpu.devices (DUALFACE_GPU_DEVICES) names GPUs, but the packages for them are not "
            "installed: `make setup GPU=1`, then `.venv-gpu/bin/dualface`; or set it to auto.",
        )
    if not chosen:
        return [unprobed(settings)]
    return [of_gpu(settings, hardware, number, chosen) for number in range(len(chosen))]


def unprobed(settings: Settings) -> Settings:
    """The settings without what was probed: that suits GPUs which are not used."""
    if not (settings.config_dir / DETECTED).is_file():
        return settings
    from shared.settings.origins import look as origins  # where there is such a file only

    defaults = {
        known.setting.field: known.setting.default
        for known in origins().values()
        if known.origin.kind == "detected"
        and getattr(settings, known.setting.field, None) == known.origin.value
    }
    return settings.model_copy(update=defaults)


def look(settings: Settings) -> Hardware:
    """The GPUs of this host, asked for in a process of its own: a driver may hang or crash. Costs
    nothing where no package for GPUs is installed, else half a second."""
    if settings.gpu_devices == "none" or find_spec("pynvml") is None:
        return Hardware(reason="the package nvidia-ml-py is not installed")
    from client.doctor.gpus import known_hardware  # as few modules as can be, without a GPU

    return known_hardware()[0]


def suited(settings: Settings, hardware: Hardware) -> Settings:
    """The settings with what suits these GPUs, which are probed where they are new: some ten
    seconds, once."""
    if not hardware.gpus or find_spec("cupy") is None:  # what can't be used would fail every trial
        return settings
    from client.doctor.detect import probe, why_probe

    why = why_probe(settings, hardware)
    if not why:
        return settings
    print(f"dualface: trying out the GPUs ({why}); some ten seconds.", file=sys.stderr)
    before = Settings.load()
    own = {
        name: value
        for name in Settings.model_fields
        if (value := getattr(settings, name)) != getattr(before, name)
    }
    probe(settings, hardware)
    return Settings.load().model_copy(update=own)


def of_gpu(settings: Settings, hardware: Hardware, number: int, chosen: list[str]) -> Settings:
    """The settings of the processes of one GPU of those chosen."""
    name = "gpu" if settings.arena == DEFAULT_ARENA else f"{settings.arena}-"
    update: dict[str, object] = {"arena": f"{name}{number}", "gpu_device": chosen[number]}
    if "encode_workers" not in settings.model_fields_set:
        update["encode_workers"] = encoders(settings, hardware, len(chosen), chosen[number])
    return settings.model_copy(update=update)


def encoders(settings: Settings, hardware: Hardware, gpus: int, uuid: str) -> int:
    """Encoder processes of a GPU or slice, one of `gpus` that are used: one for each stream where
    NVENC encodes; where cores do, this one's share of them, as far as its memory has room for their
    contexts."""
    streams = settings.max_concurrent_streams
    gpu = next(each for each in hardware.gpus if uuid in units(each))
    part = next((each for each in gpu.slices if each.uuid == uuid), None)
    if not _on_cores(settings, gpu, part):
        return streams
    from shared.settings.hardware import encoders_on_cores  # where there is a GPU only

    cores = max(1, len(os.sched_getaffinity(0)) // gpus)
    memory = gpu.memory_total_bytes if part is None else part.memory_bytes
    if memory is None:
        return min(cores, streams)  # no more than where NVENC encodes, whose room is unknown, too
    return encoders_on_cores(
        cores,
        memory // MIB,
        streams,
        memory_share=settings.gpu_memory_share,
        engine_margin=settings.gpu_engine_margin,
        arena_mib=settings.arena_mib,
    )


def _on_cores(settings: Settings, gpu: Gpu, part: MigSlice | None) -> bool:
    """True where x264 encodes: no session of NVENC is allowed, as after trials in which none
    worked, or the GPU has no NVENC by its name (A100, H100), or the slice by its profile."""
    if settings.nvenc_sessions == 0 or gpu.nvenc is False:
        return True
    return part is not None and part.encoders == 0
