"""Bounds on what one source may take: memory, and the sentences that name a limit."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ErrorCode, PermanentError
from shared.settings import MIB

PLAIN_TIMES = 1 << 60
"""Ticks. A time at or beyond it, on either side, is none: sums of two would leave 64 bits."""

LONGEST_GAP = (1 << 31) - 2
"""Ticks between two frames, or two sound packets, that mp4 and mov can hold (ISO/IEC 14496-12,
8.6.1.2, read as signed by players; FFmpeg's muxer changes times from one more on)."""


def too_large(problem: str, limit: str, remedy: str) -> PermanentError:
    """TOO_LARGE in one sentence; `limit` is a field of SourceLimits."""
    return PermanentError(
        ErrorCode.TOO_LARGE,
        f"{problem} allowed (DUALFACE_SOURCE_MAX_{limit.upper()}): {remedy}.",
    )


def plain_time(ticks: int | None) -> int | None:
    """`ticks`, or None where they are so many that they can only be damage."""
    return ticks if ticks is not None and -PLAIN_TIMES < ticks < PLAIN_TIMES else None


class _Bounds:
    """Those in force in this process: the least counts, whoever came first and whoever ends first.

    Generators keep theirs while they wait, so that the ends need not come in order.
    """

    def __init__(self) -> None:
        # Entered again by this very thread where the collector ends an abandoned generator in here.
        self._lock = threading.RLock()
        self._bytes: dict[object, int] = {}
        self._without = (0, 0)

    def add(self, most_bytes: int) -> object:
        """Put a bound in force; returns what takes it away again."""
        token = object()
        with self._lock:
            if not self._bytes:
                self._without = resource.getrlimit(resource.RLIMIT_DATA)
            self._bytes[token] = most_bytes
            self._apply()
        return token

    def remove(self, token: object) -> None:
        """Take a bound away."""
        with self._lock:
            del self._bytes[token]
            self._apply()

    def _apply(self) -> None:
        applied = None
        while applied != (wanted := self._wanted()):  # what is in force may have changed meanwhile
            resource.setrlimit(resource.RLIMIT_DATA, wanted)
            applied = wanted

    def _wanted(self) -> tuple[int, int]:
        soft, hard = self._without
        in_force = tuple(self._bytes.values())
        known = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
        return min([*known, *in_force]) if in_force else soft, hard


_bounds = _Bounds()


@contextmanager
def memory_at_most(mib: int) -> Iterator[None]:
    """Let this process allocate at most `mib` more than it has, until the context ends.

    The only bound that also holds inside demuxers and decoders, which allocate what a header asks
    for: there an allocation fails and they report it. Shared memory does not count (RLIMIT_DATA).
    It is the whole process's, and inherited by processes started meanwhile. Several may be in
    force, begun and ended in any order: the least counts, and with the last one the limit is what
    it was. Raises PermanentError TOO_LARGE in place of MemoryError.
    """
    token = _bounds.add(data_bytes() + mib * MIB)
    try:
        yield
    except MemoryError as error:
        raise out_of_memory(mib) from error
    finally:
        _bounds.remove(token)


def out_of_memory(mib: int) -> PermanentError:
    """The error for a source that needs more memory than it may."""
    return too_large(
        f"The file asks for more than the {mib} MiB of memory",
        "memory_mib",
        "it is damaged or far too large, convert it to H.264 in MP4 first",
    )


def data_bytes() -> int:
    """Private writable memory of this process, resident or not, as RLIMIT_DATA counts it."""
    pages = Path("/proc/self/statm").read_text().split()[5]
    return int(pages) * resource.getpagesize()
