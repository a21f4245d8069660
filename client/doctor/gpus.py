"""What of a GPU works: NVML's word on it, then trials of each part in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from pydantic import ValidationError

from client.doctor.children import Look, found_by
from client.doctor.quick import driver_version
from shared.errors import PermanentError
from shared.findings import Fact, Finding, State, not_here, ok, problem, warning
from shared.gpu import Gpu, Hardware, devices
from shared.gpu.inventory import VISIBLE, able
from shared.gpu.matrix import COMPUTE, DRIVER, PACKAGES, Package, unmet, version_of
from shared.settings import MIB, Settings

NVML_LIMIT_S = 20.0
"""Without persistence mode the first question loads the driver: seconds per GPU."""

INSTALL = (
    "for GPUs: NVIDIA's driver from 580 on, `make setup GPU=1`, then `.venv-gpu/bin/dualface`. "
    "Without one the CPU does all the work"
)
DRIVER_FIX = (
    "see what `nvidia-smi` says; after an update of the driver restart the machine; in a "
    "container: `--gpus all` (or CDI)"
)
CHOICE_FIX = "set gpu.devices (DUALFACE_GPU_DEVICES) to auto, or to those that are there"
TRIALS = (
    "shared.cuda.probe",
    "services.decode.probe",
    "services.encode.probe",
    "services.infer.probe",
)
ON_CPU = ("services.decode.probe", "services.encode.probe", "services.infer.probe")


def known_hardware(module: str = "shared.gpu") -> tuple[Hardware, list[Finding]]:
    """What NVML tells a process of its own, and what became of that process."""
    found = found_by(Look("driver", module, step_limit_s=NVML_LIMIT_S))
    for finding in found:
        told = finding.facts.get("hardware")
        if isinstance(told, str):
            try:
                return Hardware.model_validate_json(told), []
            except ValidationError:
                break
    text = found[0].text if found else "NVML tells nothing"
    return Hardware(reason=text), [problem("driver", f"asking NVML {text}", DRIVER_FIX)]


def driver(hardware: Hardware, settings: Settings) -> Iterator[Finding]:
    """Whether there is one, and whether it is new enough for all parts. What is wrong is no problem
    for who wants no GPU."""
    bad = warning if settings.gpu_devices == "none" else problem
    if hardware.driver is None:
        reason, loaded = hardware.reason, driver_version()
        if loaded and "nvidia-ml-py" in reason:
            yield bad("driver", f"{loaded} is loaded, but {reason}", INSTALL, driver=loaded)
            return
        # NVML's words for a driver that is there, but not as it should be.
        if "mismatch" in reason or "not loaded" in reason.lower():
            yield bad("driver", reason, DRIVER_FIX)
        else:
            yield not_here("driver", "no NVIDIA driver", INSTALL, nvml=reason)
        return
    have = f"{hardware.driver}, for CUDA up to {hardware.cuda or 'unknown'}"
    facts = {"driver": hardware.driver, "cuda": hardware.cuda}
    lacking = unmet(DRIVER, version_of(hardware.driver))
    if not lacking:
        yield ok("driver", have, **facts)
        return
    reasons = "; ".join(f"{need.part} needs {need.text} ({need.why})" for need in lacking)
    fix = f"install NVIDIA's driver {lacking[0].text} or newer; {lacking[0].source}"
    yield bad("driver", f"{have}: too old. {reasons}", fix, **facts)


def gpus(hardware: Hardware, settings: Settings) -> Iterator[Finding]:
    """Each of them, and which are used."""
    if hardware.driver is not None and not hardware.gpus:
        yield not_here("gpus", hardware.reason, f"{DRIVER_FIX}. {INSTALL}")
    for gpu in hardware.gpus:
        yield _gpu(gpu).model_copy(update={"device": gpu.uuid})
    try:
        used = devices(settings, hardware)
    except PermanentError as error:
        yield problem("gpu choice", error.message, CHOICE_FIX)
        return
    if hardware.gpus:
        text, fix = f"used: {', '.join(used) or 'none'}", "see above why none will do"
        named = os.environ.get(VISIBLE)
        if named is not None and settings.gpu_devices == "auto":
            text += f"; {VISIBLE}={named!r} allows no other"
            fix += f", and whether {VISIBLE} is to name one"
        if used or settings.gpu_devices == "none":
            yield ok("gpu choice", text, used=used)
        else:
            yield warning("gpu choice", text, fix, used=used)


def packages(hardware: Hardware, settings: Settings) -> Iterator[Finding]:
    """Those of the extra `gpu`, where there is something for them to do. Without them the CPU does
    it, which is a problem only for who named a GPU."""
    if not hardware.gpus or settings.gpu_devices == "none":
        return
    bad = warning if settings.gpu_devices == "auto" else problem
    for package in PACKAGES:
        if package.module != "tensorrt":  # its own trial tells more
            yield _package(package, bad)


def trials(
    settings: Settings, hardware: Hardware, *, brief: bool, modules: Sequence[str] = TRIALS
) -> Iterator[Finding]:
    """Every part of every device that is used. `brief`: takes no sessions from a stack that is up.
    Blocks for seconds."""
    try:
        used = devices(settings, hardware)
    except PermanentError:
        used = []
    for uuid in used:
        for module in modules:
            arguments = ("--gpu", "--brief") if brief else ("--gpu",)
            yield from found_by(
                Look(
                    module.split(".")[1],
                    module,
                    {"CUDA_VISIBLE_DEVICES": uuid},
                    arguments if module != "shared.cuda.probe" else (),
                    uuid,
                )
            )


def on_cpu(module: str) -> list[Finding]:
    """What of a stage works without a GPU."""
    return found_by(Look(module.split(".")[1], module, {"CUDA_VISIBLE_DEVICES": ""}))


def session_limits(settings: Settings, found: Sequence[Finding]) -> Iterator[Finding]:
    """Whether as many sessions opened as the settings allow."""
    for finding in found:
        if finding.check != "encode.sessions" or finding.state is not State.OK:
            continue
        count, refused = finding.facts["opened"], finding.facts.get("refused", True)
        if isinstance(count, int) and refused and count < settings.nvenc_sessions:
            yield warning(
                "encode.limit",
                f"only {count} encoders open at a time, {settings.nvenc_sessions} are allowed",
                f"set DUALFACE_NVENC_SESSIONS={count}: the others would only be refused",
            ).model_copy(update={"device": finding.device})


def _gpu(gpu: Gpu) -> Finding:
    text = _described(gpu)
    facts: dict[str, Fact] = {"compute": ".".join(str(part) for part in gpu.compute or ())}
    if not able(gpu):
        need = unmet(COMPUTE, gpu.compute or ())[0]
        fix = f"it is left out; {need.part} needs {need.text}: {need.why}"
        return warning("gpu", text, fix, **facts)
    if gpu.mig and not gpu.slices:
        fix = "make slices (nvidia-smi mig -cgi ... -C), or turn MIG off"
        return problem("gpu", f"{text}; divided (MIG), without a slice", fix, **facts)
    if gpu.ecc_errors:
        fix = "nvidia-smi -q -d ECC,ROW_REMAPPER; reset or replace the GPU"
        return problem("gpu", f"{text}; {gpu.ecc_errors} uncorrected memory errors", fix, **facts)
    if gpu.throttled:
        fix = "see to its cooling and power supply (nvidia-smi -q -d PERFORMANCE)"
        return warning("gpu", f"{text}; slowed down: {', '.join(gpu.throttled)}", fix, **facts)
    if gpu.persistence is False:
        fix = "nvidia-smi -pm 1: else the first use after a pause takes seconds"
        return warning("gpu", f"{text}; no persistence mode", fix, **facts)
    return ok("gpu", text, **facts)


def _described(gpu: Gpu) -> str:
    parts = [gpu.name]
    if gpu.compute is not None:
        parts.append(f"compute capability {gpu.compute[0]}.{gpu.compute[1]}")
    if gpu.memory_total_bytes is not None and gpu.memory_free_bytes is not None:
        free, total = gpu.memory_free_bytes // MIB, gpu.memory_total_bytes // MIB
        parts.append(f"{free} of {total} MiB free")
    if gpu.nvenc is not None:
        parts.append("with NVENC" if gpu.nvenc else "no NVENC: the CPU encodes")
    if gpu.slices:
        parts.append(f"slices {', '.join(part.profile for part in gpu.slices)}")
    if gpu.processes:
        parts.append(
            "1 process on it" if gpu.processes == 1 else f"{gpu.processes} processes on it"
        )
    return ", ".join(parts)


def _package(package: Package, bad: Callable[[str, str, str], Finding]) -> Finding:
    check = f"package {package.distribution}"
    try:
        have = version(package.distribution)
    except PackageNotFoundError:
        return bad(check, f"not installed ({package.why})", package.install)
    least = ".".join(str(part) for part in package.least)
    if version_of(have) < package.least:
        return bad(check, f"{have} is older than {least} ({package.why})", package.install)
    return ok(check, f"{have} ({package.why})", version=have)
