"""Models that a person added: `NAME.entry.json` beside the file, in the cache or another folder.

Nothing else makes a model usable, and built-in ones can't be shadowed: their names come first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from shared.assets import write_atomically
from shared.errors import ErrorCode, PermanentError
from shared.models.catalogue import ENTRIES, FileName, ModelEntry
from shared.models.draft import Draft, unwritable

SUFFIX = ".entry.json"

_COPIES = ("int8", "fp16")
"""A model's own copies in other precisions lie beside it as `NAME.int8.onnx` (`precision`)."""

_NAME: TypeAdapter[str] = TypeAdapter(FileName)


def entry_of(
    name: str, cache: Path | None = None, extra_folders: Sequence[Path] = ()
) -> ModelEntry:
    """The entry called `name`, of the list or added in one of the folders.

    Raises PermanentError: BAD_OPTION for an unknown one, MODEL_DAMAGED when what was added can't be
    read.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    if _is_name(name) and not _is_taken(name):
        for folder in _folders(cache, extra_folders):
            if entry_path(folder, name).is_file():
                return _read(entry_path(folder, name), name)
    known = ", ".join([*(entry.name for entry in ENTRIES), *added_names(cache, extra_folders)])
    raise PermanentError(
        ErrorCode.BAD_OPTION, f"there is no detector {name!r}; choose auto or one of {known}"
    )


def added_names(cache: Path | None, extra_folders: Sequence[Path] = ()) -> list[str]:
    """Names of added models, sorted; their entries may still be damaged."""
    files = (path for each in _folders(cache, extra_folders) for path in each.glob(f"*{SUFFIX}"))
    names = {path.name.removesuffix(SUFFIX) for path in files}
    return sorted(name for name in names if _is_name(name) and not _is_taken(name))


def entry_path(folder: Path, name: str) -> Path:
    """Where the entry of an added model lies."""
    return folder / f"{name}{SUFFIX}"


def check_free(name: str, cache: Path) -> None:
    """Raises PermanentError BAD_OPTION for a name that no model may be added by."""
    if not _is_name(name):
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"{name!r} can't be a model's name; use letters, digits, '.', '_', '-', at most 80",
        )
    if _is_taken(name):
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"the name {name} is taken by dualface itself; choose another"
        )
    if entry_path(cache, name).exists():
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"there is a model {name} already; choose another name, or run "
            f"'dualface models remove {name}' first",
        )


def save(entry: ModelEntry, file: Draft) -> Path:
    """Put both into the folder of the draft; the file's path.

    Raises PermanentError: BAD_OPTION as `check_free`, NO_SPACE.
    """
    folder = file.path.parent
    with _alone(folder):
        check_free(entry.name, folder)
        placed = file.place(entry.file)
        try:
            text = entry.model_dump_json(indent=2) + "\n"
            write_atomically(entry_path(folder, entry.name), text.encode())
        except PermanentError:
            placed.unlink(missing_ok=True)
            raise
        return placed


def remove(name: str, cache: Path) -> None:
    """Forget an added model of the cache. Raises PermanentError BAD_OPTION where it is none."""
    path = entry_path(cache, name)
    if _is_taken(name) or not _is_name(name) or not path.is_file():
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"there is no model {name!r} that was added in {cache}"
        )
    try:
        with _alone(cache):
            path.unlink(missing_ok=True)  # first: without it nobody uses the file
            copies = [path for kind in _COPIES for path in cache.glob(f"{name}.{kind}.*")]
            for each in (cache / file_of(name), *copies):
                each.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(cache, error) from error


def file_of(name: str) -> str:
    """What the file of an added model is called."""
    return f"{name}.onnx"


def _read(path: Path, name: str) -> ModelEntry:
    try:
        entry = ModelEntry.read_kept(path.read_text())
        if entry.name != name or entry.file != file_of(name):
            raise ValueError("it is of another model")
    except (OSError, ValueError) as error:
        reason = _first(error) if isinstance(error, ValidationError) else str(error)
        raise PermanentError(
            ErrorCode.MODEL_DAMAGED,
            f"{path} can't be read ({reason}); remove it and add the model {name} again",
        ) from error
    return entry


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _folders(cache: Path | None, extra_folders: Sequence[Path]) -> list[Path]:
    return [*([cache] if cache is not None else []), *extra_folders]


def _is_name(name: str) -> bool:
    """Whether it can be one of files and of an engine's name, with every suffix."""
    try:
        _NAME.validate_python(name)
    except ValidationError:
        return False
    return len(name) <= 80


def _is_taken(name: str) -> bool:
    """By dualface itself: as a name, or as the name of a file."""
    files = {entry.file for entry in ENTRIES}
    named = name == "auto" or any(name == entry.name for entry in ENTRIES)
    return named or file_of(name) in files or not {*_COPIES}.isdisjoint(name.split("."))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Against others that add and remove; by the folder itself, so that no file stays."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
