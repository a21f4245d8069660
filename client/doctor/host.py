"""What has nothing to do with GPUs: packages, cores, memory, disks, codecs, models, ports."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from client.doctor.quick import available_mib, nearest
from shared.arena.__main__ import budget_bytes
from shared.arena.files import check_space
from shared.errors import PermanentError
from shared.findings import Finding, not_here, ok, problem, warning
from shared.models import ENTRIES, choose, is_here
from shared.settings import MIB, Settings
from shared.settings.layers import read_layer
from shared.settings.places import DETECTED, MANUAL

SETUP = "`make setup` (or pip install --upgrade dualface) installs what is needed"
LEAST_MIB, GOOD_MIB = 1024, 2048
DISK_LEAST_MIB, DISK_GOOD_MIB = 256, 4096
DECODERS = ("h264", "hevc", "vp9", "libdav1d", "mpeg4", "prores", "aac", "mp3", "libopus")
ENCODERS = ("libx264", "libx265", "libsvtav1", "aac")
CGROUP = Path("/sys/fs/cgroup")
LOCK = Path(__file__).parents[2] / "requirements.lock"
BORN = 1_780_000_000
"""Of this code, seconds since 1970: a clock that says less is wrong."""


def python_and_packages() -> Iterator[Finding]:
    """The versions that `pyproject.toml` asks for; in a checkout, those of the lock file."""
    wrong = sorted(_unmet_requirements())
    have = f"Python {platform.python_version()}, dualface {version('dualface')}"
    if wrong:
        yield problem("packages", f"{have}; wrong: {', '.join(wrong)}", SETUP, wrong=wrong)
        return
    others = sorted(_off_the_lock())
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        text = f"{have}; {len(others)} packages are not those that were tested: {shown}"
        yield warning("packages", text, "`make setup` installs the tested versions", others=others)
        return
    yield ok("packages", have, python=platform.python_version(), prefix_is_venv=_in_venv())


def settings_files(settings: Settings) -> Iterator[Finding]:
    """Whether all that the files of settings say counts."""
    paths = (settings.config_dir / name for name in (MANUAL, DETECTED))
    layers = {path: layer for path in paths if (layer := read_layer(path)) is not None}
    for layer in layers.values():
        for each in layer.problems:
            fix = "correct it, or take it out; until then the next layer counts"
            yield warning("settings", str(each), fix)
    if not any(layer.problems for layer in layers.values()):
        yield ok("settings", f"{', '.join(map(str, layers))}: all of it counts" if layers else
                 f"no files in {settings.config_dir}: environment and defaults")  # fmt: skip


def cores() -> Iterator[Finding]:
    """Cores that may be used, and for how long of each second."""
    usable, quota = len(os.sched_getaffinity(0)), _cpu_quota()
    facts = {"cores": usable, "quota": quota, "machine": platform.machine()}
    text = f"{usable} cores" + ("" if quota is None else f", of which {quota:g} may be used")
    if quota is not None and quota < usable - 0.5:
        # Workers are as many as cores; they would only take the time from each other.
        fix = f"set DUALFACE_ENCODE_WORKERS={max(1, int(quota))}, or give the container more"
        yield warning("cpu", text, fix, **facts)
    elif usable < 2:
        yield warning("cpu", text, "it works, slowly: give it a second core", **facts)
    else:
        yield ok("cpu", text, **facts)


def memory() -> Iterator[Finding]:
    """Of the machine and, in a container, of that."""
    free = available_mib()
    limit = _memory_limit_mib()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    usable = min(part for part in (free, limit, total) if part is not None)
    text = f"{usable} of {total} MiB can be used"
    fix = "end other programs, or set DUALFACE_ARENA_MIB and DUALFACE_ENCODE_WORKERS to less"
    facts = {"total_mib": total, "available_mib": free, "limit_mib": limit}
    if usable < LEAST_MIB:
        yield problem("memory", text, fix, **facts)
    elif usable < GOOD_MIB:
        yield warning("memory", f"{text}; 1080p takes 1.7 GiB", fix, **facts)
    else:
        yield ok("memory", text, **facts)


def shared_memory(settings: Settings) -> Iterator[Finding]:
    """Whether the frames on their way fit."""
    fix = f"make {settings.shm_dir} larger (containers: --shm-size 1g), or set DUALFACE_ARENA_MIB"
    try:
        needed = budget_bytes(settings)
        check_space(settings.shm_dir, needed)
    except PermanentError as error:
        yield problem("shared memory", error.message, fix)
        return
    facts = os.statvfs(settings.shm_dir)
    free = facts.f_bavail * facts.f_frsize // MIB
    text = f"{settings.shm_dir}: {free} MiB free, frames need {needed // MIB} MiB"
    yield ok("shared memory", text, free_mib=free, needed_mib=needed // MIB)


def disks(settings: Settings) -> Iterator[Finding]:
    """Space below each of our folders, and whether it may be written."""
    folders = {
        "DUALFACE_STATE_DIR": settings.state_dir,
        "DUALFACE_SCRATCH_DIR": settings.scratch_path,
        "DUALFACE_CACHE_DIR": settings.cache_dir,
    }
    for variable, folder in folders.items():
        yield _disk(variable, folder)


def _disk(variable: str, folder: Path) -> Finding:
    check = f"disk {variable.split('_')[1].lower()}"
    there = nearest(folder)
    fix = f"set {variable} to a folder on another disk, or free some space"
    if there is None or not os.access(there, os.W_OK | os.X_OK):
        return problem(check, f"{folder} can't be written", fix)
    facts = os.statvfs(there)
    free = facts.f_bavail * facts.f_frsize // MIB
    text = f"{folder}: {free} MiB free"
    if free < DISK_LEAST_MIB:
        return problem(check, text, fix, free_mib=free)
    if free < DISK_GOOD_MIB and variable != "DUALFACE_CACHE_DIR":
        return warning(check, f"{text}; an hour of 1080p takes some GiB", fix, free_mib=free)
    return ok(check, text, free_mib=free)


def codecs() -> Iterator[Finding]:
    """What FFmpeg inside PyAV was built with."""
    import av  # 0.1 s
    from av.codec import Codec

    def lacks(name: str, mode: Literal["r", "w"]) -> bool:
        try:
            Codec(name, mode)
        except ValueError:
            return True
        return False

    missing = [name for name in DECODERS if lacks(name, "r")]
    missing += [name for name in ENCODERS if lacks(name, "w")]
    have = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
    if missing:
        fix = "install PyAV from its wheel, not from a distribution: pip install --force av"
        yield problem("ffmpeg", f"{have}, without {', '.join(missing)}", fix, missing=missing)
        return
    yield ok("ffmpeg", have, ffmpeg=av.ffmpeg_version_info)


def models(settings: Settings) -> Iterator[Finding]:
    """Which are here and whole, and which one `auto` means."""
    cache, folders = settings.cache_dir / "models", settings.model_folders
    pull = "`dualface models pull NAME` fetches one"
    try:
        here = [each.name for each in ENTRIES if is_here(each.name, cache, folders)]
        auto = choose("auto", cache, folders).name
    except PermanentError as error:
        yield problem("models", error.message, pull)
        return
    damaged = [
        each.name for each in ENTRIES if each.name not in here and (cache / each.file).is_file()
    ]
    if damaged:
        text = f"not what they should be: {', '.join(damaged)}"
        yield warning("models", text, f"{pull} anew", here=here, damaged=damaged)
    elif auto not in here:
        fix = f"`dualface models pull {auto}`, or the first run fetches it"
        yield not_here("models", f"none is here; auto means {auto}", fix, here=here, auto=auto)
    else:
        text = f"here: {', '.join(here)}; auto means {auto}"
        yield ok("models", text, here=here, auto=auto)


def ports(settings: Settings, *, up: bool) -> Iterator[Finding]:
    """Whether API and Flower can listen. `up`: our own stack does just now."""
    asked = settings.model_fields_set
    for name, host, port in (
        ("api", settings.api_host, settings.api_port),
        ("flower", settings.flower_host, settings.flower_port),
    ):
        check, variable = f"port {name}", f"DUALFACE_{name.upper()}_PORT"
        if port == 0 or _is_free(host, port):
            yield ok(check, f"{host}:{port} is free" if port else "any free port")
        elif up:
            yield ok(check, f"{host}:{port} is in use; the stack is up")
        elif f"{name}_port" in asked:
            yield problem(check, f"{host}:{port} is taken", f"set {variable} to another")
        else:
            fix = f"nothing (the next free one is taken instead), or set {variable}"
            yield warning(check, f"{host}:{port} is taken", fix)


def clock() -> Iterator[Finding]:
    """Signatures of S3 go by it."""
    if time.time() < BORN:
        text = f"it is {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, says the clock"
        yield problem("clock", text, "set it, and have it kept by NTP (timedatectl set-ntp true)")
        return
    yield ok("clock", "plausible")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _in_venv() -> bool:
    return sys.prefix != sys.base_prefix


def _unmet_requirements() -> Iterator[str]:
    # Celery and kombu need it; 20 ms.
    from packaging.requirements import Requirement

    for line in requires("dualface") or ():
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        have = _version(need.name)
        if have is None and need.name == "onnxruntime":
            have = _version("onnxruntime-gpu")  # takes its place
        if have is None:
            yield f"{need.name} is missing"
        elif not need.specifier.contains(have, prereleases=True):
            yield f"{need.name} {have} ({need.specifier})"


def _off_the_lock() -> Iterator[str]:
    """Installed packages of another version than the lock file's, where there is one."""
    try:
        text = LOCK.read_text(encoding="utf-8")
    except OSError:
        return
    from packaging.requirements import Requirement

    for line in re.findall(r"^[A-Za-z0-9_.-]+==[^\\\n]+", text, re.M):
        locked = Requirement(line.strip())
        if locked.marker is not None and not locked.marker.evaluate():
            continue
        have = _version(locked.name)
        if have is not None and not locked.specifier.contains(have, prereleases=True):
            yield f"{locked.name} {have} ({locked.specifier})"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cpu_quota() -> float | None:
    """Cores' worth of time that a container may use (cgroup v2); None: all."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _memory_limit_mib() -> int | None:
    try:
        text = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        return None if text == "max" else int(text) // MIB
    except (OSError, ValueError):
        return None
