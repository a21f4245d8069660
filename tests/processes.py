"""Ending processes that may end by themselves at the same moment."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from contextlib import suppress

import psutil


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill those that still live."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """Kill a child of ours with all its descendants, and wait for it."""
    with suppress(psutil.NoSuchProcess):
        kill(psutil.Process(process.pid).children(recursive=True))
    process.kill()
    process.wait()
