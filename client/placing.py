"""Puts a finished result where the person wants it: whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from shared.errors import ErrorCode, PermanentError


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
        part.unlink(missing_ok=True)
        code = ErrorCode.NO_SPACE if error.errno == errno.ENOSPC else ErrorCode.OUTPUT_UNWRITABLE
        raise PermanentError(
            code, f"The result can't be written to {output} ({error.strerror})."
        ) from error


def part_of(output: Path) -> Path:
    """The temporary neighbour of `output`; one name, so that a later run finds a leftover."""
    return output.with_name(f".{output.name}.dualface-part")
