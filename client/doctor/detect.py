"""From what was found to `auto_detected.yaml`: values that suit this hardware."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from client.doctor.gpus import trials
from shared.errors import PermanentError
from shared.findings import Finding, State, ok, warning
from shared.gpu import Gpu, Hardware, devices
from shared.gpu.inventory import units
from shared.settings import MIB, Settings
from shared.settings.hardware import GpuFacts, HardwareFacts, derive
from shared.settings.probing import host_facts, probe_is_stale, write_detected

NVENC = ("encode.nvenc", "encode.pyav-nvenc")
NVDEC = ("decode.nvdec", "decode.pyav-cuda")


def facts_of(
    settings: Settings, hardware: Hardware, found: Sequence[Finding] = ()
) -> HardwareFacts:
    """This machine with the devices that are used. `found`: what their trials found; without, only
    what tells one hardware from another. Raises PermanentError as `devices`."""
    used = devices(settings, hardware)
    known = [
        _facts(gpu, uuid, [each for each in found if each.device == uuid])
        for gpu in hardware.gpus
        for uuid in units(gpu)
        if uuid in used
    ]
    cores = len(os.sched_getaffinity(0))
    return host_facts(cores, hardware.driver or "", tuple(known))


def why_probe(settings: Settings, hardware: Hardware) -> str:
    """Why this hardware has to be probed (anew), in a few words; "" where it has not, or has no
    GPU. Takes a millisecond. Raises PermanentError as `devices`."""
    facts = facts_of(settings, hardware)
    return probe_is_stale(facts, settings.config_dir) if facts.gpus else ""


def probe(settings: Settings, hardware: Hardware) -> list[Finding]:
    """Try every part of every device that is used, and write down what suits them. Blocks for some
    ten seconds; nobody else should use the GPUs meanwhile."""
    found = list(trials(settings, hardware, brief=False))
    return [*found, *keep(settings, hardware, found)]


def keep(settings: Settings, hardware: Hardware, found: Sequence[Finding]) -> Iterator[Finding]:
    """Write `auto_detected.yaml`, where there is a GPU, or was one."""
    try:
        facts = facts_of(settings, hardware, found)
    except PermanentError:
        return  # a choice of GPUs that can't be had, which `gpus` tells of
    gone = probe_is_stale(facts, settings.config_dir).startswith("the GPUs changed")
    if not facts.gpus and not gone:
        return
    values = derive(
        facts,
        memory_share=settings.gpu_memory_share,
        engine_margin=settings.gpu_engine_margin,
    )
    try:
        path = write_detected(facts, values, settings.config_dir)
    except PermanentError as error:
        fix = "set DUALFACE_CONFIG_DIR to a folder that can be written"
        yield warning("settings", f"what was found is not kept: {error.message}", fix)
        return
    told = ", ".join(f"{name} {value.value}" for name, value in values.items())
    yield ok("settings", f"{path}: {told}", values=[f"{n}={v.value}" for n, v in values.items()])


def _facts(gpu: Gpu, uuid: str, found: Sequence[Finding]) -> GpuFacts:
    part = next((each for each in gpu.slices if each.uuid == uuid), None)
    memory = gpu.memory_total_bytes if part is None else part.memory_bytes
    # NVML tells how many engines a slice has; of a GPU the codecs' library does.
    encoders = _engines(found, NVENC) if part is None else part.encoders or 0
    decoders = _engines(found, NVDEC) if part is None else part.decoders or 0
    tried = next((each.facts for each in found if each.check == "encode.sessions"), {})
    opened = tried.get("opened")
    return GpuFacts(
        uuid=uuid,
        name=gpu.name if part is None else f"{gpu.name} {part.profile}",
        memory_mib=(memory or 0) // MIB,
        compute=gpu.compute or (0, 0),
        nvenc_engines=encoders if _works(found, NVENC) else 0,
        nvdec_engines=decoders if _works(found, NVDEC) else 0,
        nvenc_sessions=opened if isinstance(opened, int) and opened > 0 else None,
        nvenc_refused=tried.get("refused") is not False,
    )


def _engines(found: Sequence[Finding], checks: Sequence[str]) -> int:
    """How many the trials were told of; 1 where nobody tells."""
    told = [each.facts.get("engines") for each in found if each.check in checks]
    return max([1, *(count for count in told if isinstance(count, int))])


def _works(found: Sequence[Finding], checks: Sequence[str]) -> bool:
    return any(each.check in checks and each.state is State.OK for each in found)
