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


def die_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send this process `number` when its parent dies (Linux; else nothing).

    `parent`: its id, where it is known from before this process was made: the parent may have died
    since.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent is None else parent
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

    With the pid it names a process for good: pids are used again.
    """
    facts = _facts(pid)
    return float(facts[19]) if facts else 0.0


def is_stopped(pid: int) -> bool:
    """True for a process that was stopped by a signal or a debugger, and may go on one day."""
    facts = _facts(pid)
    return bool(facts) and facts[0] in ("T", "t")


def _facts(pid: int) -> list[str]:
    """/proc/PID/stat, proc(5), from field 3 on; field 2, the name, may hold spaces and brackets.
    Empty for a process that is dead and whose parent has not asked after it yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    facts = stat.rpartition(")")[2].split()
    return facts if facts and facts[0] not in ("Z", "X") else []
