"""The reference: one ffmpeg process, two fixed crops, no detection, the same x264 settings."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from services.compose.camera import View
from shared.jobs import OutputPlan


@dataclass(frozen=True)
class Timing:
    """Wall and CPU seconds of a whole process with its children."""

    wall_s: float
    cpu_s: float


def ffmpeg_binary() -> str:
    """ffmpeg on the PATH, else the one inside the package imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def reference_command(
    source: Path, views: tuple[View, View], plan: OutputPlan, target: Path
) -> list[str]:
    """Decode, two fixed crops, scale each to its tile (bicubic, ffmpeg's default), hstack, x264."""
    crops = ";".join(
        f"[{name}]crop={_even(view.w)}:{_even(view.h)}:{_even(view.x)}:{_even(view.y)},"
        f"scale={tile.w}:{tile.h}[{name}s]"
        for name, view, tile in zip("ab", views, plan.tiles, strict=True)
    )
    graph = f"[0:v]split[a][b];{crops};[as][bs]hstack[out]"
    return [
        ffmpeg_binary(), "-v", "error", "-nostdin", "-y", "-i", str(source),
        "-filter_complex", graph, "-map", "[out]", "-map", "0:a?", "-c:a", "copy",
        "-c:v", "libx264", "-preset", plan.preset, "-crf", str(plan.crf), str(target),
    ]  # fmt: skip


def _even(value: float) -> int:
    return int(value) // 2 * 2


def timed(command: list[str]) -> Timing:
    """Run a command to its end. Raises CalledProcessError when it fails."""
    before = _children_cpu()
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Timing(time.perf_counter() - began, _children_cpu() - before)


def _children_cpu() -> float:
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
