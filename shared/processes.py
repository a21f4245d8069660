"""Process facts that the standard library does not reach."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""mallopt(3)."""

_LARGE = 1 << 30


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process `number` when its parent dies (Linux; else nothing)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)  # it died in between


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks for the next allocation (elsewhere: nothing).

    An encoder opened for each chunk allocates some 100 MB of pictures; by default each is mapped
    anew and its pages zeroed at the first touch: a tenth of the encoder's time.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def started_ticks(pid: int) -> float:
    """When the process began, in clock ticks since boot; 0.0 when there is none, or no /proc.

    With the pid it names a process for good: pids are used again. Field 22 of /proc/PID/stat,
    proc(5); the name in field 2 may hold spaces and brackets.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    return float(stat.rpartition(")")[2].split()[19])
