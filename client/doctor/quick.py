"""The part of the doctor that the stack runs at every start: files of the kernel are read, nothing
is opened, asked or started."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from shared.gpu.matrix import DRIVER, unmet, version_of
from shared.settings import MIB, Settings

MOST = 3
DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""Of the loaded kernel module; NVML would have to be opened, which takes up to seconds."""
NEEDED = ("pynvml", "cupy")
"""Modules without which no GPU is found, or none is used."""
WSL_DEVICE = Path("/dev/dxg")
"""There the driver is Windows' own."""
MEMORY_FILE = Path("/proc/meminfo")
DISK_LEAST_MIB = 1024
MEMORY_LEAST_MIB = 1024
"""README.md: 1.7 GiB for 1080p, of which a part is shared."""


def quick_checks(settings: Settings) -> list[str]:
    """What a person should know before a start, a sentence each, the worst first, three at most.
    Takes a millisecond. Raises nothing."""
    found = [
        *_gpu(settings, driver_version()),
        *_disk(settings),
        *_memory(),
    ]
    return found[:MOST]


def driver_version(file: Path = DRIVER_FILE) -> str:
    """Of NVIDIA's kernel module, "" where none is loaded (or, as on WSL, does not show)."""
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else ""


def why_no_gpu() -> str:
    """Why this process can use no GPU, in a few words, "" where it may: the driver is not asked."""
    if any(find_spec(module) is None for module in NEEDED):
        return "the packages for GPUs are not installed (`make setup GPU=1` does it)"
    if not driver_version() and not WSL_DEVICE.exists():
        return "no NVIDIA driver is loaded"
    return ""


def _gpu(settings: Settings, driver: str) -> list[str]:
    if settings.gpu_devices == "none" or not driver:
        return []
    if any(find_spec(module) is None for module in NEEDED):
        return [
            "There is an NVIDIA driver, but the packages for GPUs are not installed, so the CPU "
            "does all the work: `make setup GPU=1`, then `.venv-gpu/bin/dualface`."
        ]
    old = unmet(DRIVER[:1], version_of(driver))
    return [
        f"The NVIDIA driver {driver} is older than {need.text}, which {need.part} needs: update "
        "it, or set DUALFACE_GPU_DEVICES=none. `dualface doctor` tells more."
        for need in old
    ]


def _disk(settings: Settings) -> list[str]:
    folders = dict.fromkeys((settings.state_dir, settings.scratch_path))
    found, told = [], set()
    for folder in folders:
        there = nearest(folder)
        if there is None:
            continue
        facts = os.statvfs(there)
        free_mib = facts.f_bavail * facts.f_frsize // MIB
        if free_mib < DISK_LEAST_MIB and facts.f_fsid not in told:
            told.add(facts.f_fsid)
            found.append(f"Only {free_mib} MiB are free on the disk of {folder}; free some space.")
    return found


def _memory() -> list[str]:
    free_mib = available_mib()
    if free_mib is None or free_mib >= MEMORY_LEAST_MIB:
        return []
    return [
        f"Only {free_mib} MiB of memory are free; end other programs, or set DUALFACE_ARENA_MIB "
        "and DUALFACE_ENCODE_WORKERS to less."
    ]


def available_mib(file: Path = MEMORY_FILE) -> int | None:
    """Memory that programs can have without swapping, MiB."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", file.read_text(encoding="ascii"), re.M)
    except OSError:
        return None
    return int(found[1]) // 1024 if found else None


def nearest(folder: Path) -> Path | None:
    """The folder, or the first one above it that is there."""
    there = folder.absolute()
    while not there.exists():
        if there == there.parent:
            return None
        there = there.parent
    return there
