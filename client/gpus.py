"""What runs where on this host: one arena with its stages for each GPU, or one in host memory."""

from __future__ import annotations

import os
from importlib.util import find_spec

from shared.errors import ErrorCode, PermanentError
from shared.gpu import Hardware, devices, inventory
from shared.settings import Settings

DEFAULT_ARENA = "cpu0"


def places(settings: Settings) -> tuple[list[Settings], str]:
    """The settings of each arena's processes, and what a person should know about the choice, "" if
    nothing. Raises PermanentError BAD_OPTION for a GPU that was named and can't be had."""
    if settings.gpu_devices == "none":
        return [settings], ""
    hardware = inventory()
    chosen = devices(settings, hardware)
    if not chosen:
        return [settings], ""
    if find_spec("cupy") is None:
        why = (
            "The packages for GPUs are not installed (pip install 'dualface[gpu]'), so the CPU "
            "does all the work."
        )
        if settings.gpu_devices == "auto":
            return [settings], why
        raise PermanentError(ErrorCode.BAD_OPTION, f"DUALFACE_GPU_DEVICES names GPUs. {why}")
    return [of_gpu(settings, hardware, number, chosen) for number in range(len(chosen))], ""


def of_gpu(settings: Settings, hardware: Hardware, number: int, chosen: list[str]) -> Settings:
    """The settings of the processes of one GPU of those chosen."""
    name = "gpu" if settings.arena == DEFAULT_ARENA else f"{settings.arena}-"
    update: dict[str, object] = {"arena": f"{name}{number}", "gpu_device": chosen[number]}
    if "encode_workers" not in settings.model_fields_set:
        update["encode_workers"] = encoders(settings, hardware, len(chosen), chosen[number])
    return settings.model_copy(update=update)


def encoders(settings: Settings, hardware: Hardware, gpus: int, uuid: str) -> int:
    """Encoder processes of a GPU. Each has a CUDA context, some 500 MiB of its memory: one for each
    stream where NVENC encodes; where cores do, as on an A100 or H100, this GPU's share of them."""
    gpu = next((each for each in hardware.gpus if each.uuid == uuid), None)
    if gpu is not None and gpu.nvenc is False:
        return max(1, len(os.sched_getaffinity(0)) // gpus)
    return settings.max_concurrent_streams
