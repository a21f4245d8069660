"""What a result is called, and putting it where the person wants it: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Container
from contextlib import suppress
from itertools import count
from pathlib import Path

from shared.errors import ErrorCode, PermanentError

NAME_BYTES = 255
"""Of a file's name, on every common file system of Linux (NAME_MAX)."""
PART_BEGIN, PART_END = ".", ".dualface-part"


def place(result: Path, output: Path) -> None:
    """Make `output` the bytes of `result`, atomically, replacing what was there.

    Raises PermanentError; then there is nothing new beside `output`.
    """
    part = part_of(output)
    try:
        part.unlink(missing_ok=True)
        try:
            os.link(result, part)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(result, part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, output)
    except OSError as error:
        with suppress(OSError):  # the first problem is the one to be told
            part.unlink(missing_ok=True)
        code = ErrorCode.NO_SPACE if error.errno == errno.ENOSPC else ErrorCode.OUTPUT_UNWRITABLE
        raise PermanentError(
            code, f"The result can't be written to {output} ({error.strerror})."
        ) from error


def part_of(output: Path) -> Path:
    """The temporary neighbour of `output`; one name, so that a later run finds a leftover."""
    name, room = os.fsencode(output.name), NAME_BYTES - len(PART_BEGIN) - len(PART_END)
    if len(name) <= room:
        return output.with_name(f"{PART_BEGIN}{output.name}{PART_END}")
    # Long names that differ only at the end have parts of their own, too.
    digest = hashlib.sha256(name).hexdigest()[:16]
    return output.with_name(fitted(f"{PART_BEGIN}{output.name}", f"-{digest}{PART_END}"))


def split_name(stem: str, suffix: str = ".mp4", taken: Container[str] = ()) -> str:
    """STEM-split.mp4, or where that is `taken` STEM-split-2.mp4 and so on: a name that a file can
    have, so of a long stem there is only the beginning."""
    names = (fitted(stem, f"-split{f'-{n}' if n > 1 else ''}{suffix}") for n in count(1))
    return next(name for name in names if name not in taken)


def fits(name: str) -> bool:
    """True for what a file's name has room for."""
    return len(os.fsencode(name)) <= NAME_BYTES


def fitted(begin: str, end: str) -> str:
    """`begin` + `end`, without the last of `begin` that a file's name has no room for."""
    begin = begin[:NAME_BYTES]
    while begin and not fits(begin + end):
        begin = begin[:-1]
    return begin + end
