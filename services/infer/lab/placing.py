"""Where the report of an evaluation is written: nothing of the evaluation is lost by it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from shared.errors import ErrorCode, PermanentError


def check_place(path: Path, inputs: Iterable[Path], models: Path) -> None:
    """Whether a report may be written to `path`, asked before there is one; leaves nothing there.

    Raises PermanentError: BAD_OPTION where it would replace one of `inputs` or lie in the folder
    `models`, OUTPUT_UNWRITABLE where it can't be written.
    """
    if any(_is_same(path, each) for each in inputs):
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"The report {path} would replace what is evaluated; give it another name.",
        )
    if _is_same(path.parent, models):
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"The report {path} must not lie among the models in {models}."
        )
    try:
        if path.exists() and not path.is_file():
            raise _unwritable(path, "it is a folder or a device")
        folder = next(each for each in path.parents if each.exists())
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def write_report(path: Path, text: str) -> None:
    """Write it whole or not at all; its folder is made. Raises PermanentError OUTPUT_UNWRITABLE."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False  # one of them is not there


def _unwritable(path: Path, reason: str | None) -> PermanentError:
    return PermanentError(
        ErrorCode.OUTPUT_UNWRITABLE, f"The report {path} can't be written ({reason})."
    )
