"""What `dualface models add` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pydantic import ValidationError

from client.lab import ask
from client.showing import Out, print_rows
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.models.added import check_free, file_of, save
from shared.models.catalogue import FAMILIES, Added, ModelEntry
from shared.models.download import HTTPS, PIECE_BYTES, download
from shared.models.draft import MODEL_BYTES_MAX, Draft, draft, too_large
from shared.models.lab import TrialAnswer, TrialRequest
from shared.settings import Settings

TRIAL_PATIENCE_S = 180.0
"""The largest models take some ten seconds to load and run once on a slow CPU."""

_UNKNOWN = "0" * 64

_OPTIONS = {
    "sha256": "--sha256",
    "fixed_input": "--fixed-input",
    "long_side_px": "--long-side",
    "channels": "--channels",
    "scale": "--scale",
    "mean": "--mean",
    "score_threshold": "--score-threshold",
    "sure_score": "--sure-score",
}
"""By field of the entry."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """As they were typed. None: as usual in the family."""

    name: str
    source: str
    family: str
    sha256: str | None = None
    licence: str = "not stated"
    fixed_input: str | None = None
    long_side: int | None = None
    channels: str | None = None
    scale: str | None = None
    mean: str | None = None
    score_threshold: float | None = None
    sure_score: float | None = None


def add_command(settings: Settings, wishes: Wishes) -> int:
    """Copy or fetch the file, run it once, keep it with its entry; or leave nothing behind."""
    cache = settings.cache_dir / "models"
    check_free(wishes.name, cache)
    entry = make_entry(wishes)
    with draft(cache) as file:
        file.write(_pieces(wishes.source))
        if entry.sha256 not in (_UNKNOWN, file.sha256):
            raise PermanentError(
                ErrorCode.MODEL_DAMAGED,
                f"{wishes.source} is another file than --sha256 says: its own is {file.sha256}",
            )
        entry = entry.model_copy(update={"sha256": file.sha256})
        answer = _try(wishes, entry, file, settings.infer_threads)
        path = save(answer.entry, file)
    _print(answer, path)
    return 0


def make_entry(wishes: Wishes) -> ModelEntry:
    """The entry, without the file's hash where none was given.

    Raises PermanentError BAD_OPTION naming the first option that is wrong.
    """
    usual = next((each for family, each in FAMILIES.items() if family == wishes.family), None)
    if usual is None:
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"there is no family {wishes.family!r}; it is one of {', '.join(FAMILIES)}",
        )
    given: dict[str, object] = {
        "sha256": None if wishes.sha256 is None else wishes.sha256.lower(),
        "fixed_input": _sides(wishes.fixed_input),
        "long_side_px": wishes.long_side,
        "channels": None if wishes.channels is None else wishes.channels.upper(),
        "scale": _number("--scale", wishes.scale),
        "mean": _mean(wishes.mean),
        "score_threshold": wishes.score_threshold,
        "sure_score": wishes.sure_score,
    }
    chosen = {field: value for field, value in given.items() if value is not None}
    if {"long_side_px", "fixed_input"} & set(chosen):
        chosen["second_long_side_px"] = 0  # of the family's own size
    fixed = {
        "name": wishes.name,
        "family": wishes.family,
        "file": file_of(wishes.name),
        "sha256": _UNKNOWN,
        "origin": Added(source=_origin(wishes.source)),
        "licence": wishes.licence,
    }
    try:
        return ModelEntry.model_validate(usual.model_dump() | fixed | chosen)
    except ValidationError as error:
        first = error.errors()[0]
        option = _OPTIONS.get(str(first["loc"][0]) if first["loc"] else "", "--fixed-input")
        raise PermanentError(ErrorCode.BAD_OPTION, f"{option}: {first['msg']}") from error


def _try(wishes: Wishes, entry: ModelEntry, file: Draft, threads: int) -> TrialAnswer:
    """Raises PermanentError MODEL_DAMAGED for a file that can't be used."""
    request = TrialRequest(
        entry=entry,
        path=file.path.absolute(),
        size_asked=wishes.fixed_input is not None,
        threads=threads,
    )
    try:
        return ask("services.infer.lab.trial", request, TrialAnswer, TRIAL_PATIENCE_S)
    except PermanentError:
        raise
    except DualfaceError as error:
        if error.code is not ErrorCode.STAGE_FAILED:
            raise
        raise PermanentError(
            ErrorCode.MODEL_DAMAGED,
            f"the model {entry.name} could not be tried: {error.message}; is it damaged, or too "
            "large for this machine?",
        ) from error


def _pieces(source: str) -> Iterator[bytes]:
    """Of a file or what lies at an address. Raises PermanentError."""
    if "://" in source:
        yield from download(source, "download it by hand, and add the file")
        return
    path = Path(source)
    try:
        if path.is_file() and path.stat().st_size > MODEL_BYTES_MAX:
            raise too_large()
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise PermanentError(
            ErrorCode.MODEL_MISSING, f"{source} can't be read ({error.strerror})"
        ) from error


def _origin(source: str) -> str:
    """What is kept of where it came from: the query of an address may be a secret."""
    return source.partition("?")[0] if source.startswith(HTTPS) else str(Path(source).absolute())


def _sides(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"--fixed-input: {text!r} is no WIDTHxHEIGHT, as in 640x640"
        )
    return int(width), int(height)


def _mean(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    numbers = tuple(float(_number("--mean", part) or 0.0) for part in text.split(","))
    if len(numbers) not in (1, 3):
        raise PermanentError(ErrorCode.BAD_OPTION, "--mean: one number, or three: R,G,B or B,G,R")
    return numbers * (3 // len(numbers))


def _number(option: str, text: str | None) -> float | None:
    """Of "0.5" or "1/255"."""
    if text is None:
        return None
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"{option}: {text!r} is no number, as in 0.5 or 1/255"
        ) from error


def _print(answer: TrialAnswer, path: Path) -> None:
    entry = answer.entry
    size = f"up to {entry.long_side_px} px"
    if entry.fixed_input is not None:
        size = f"{entry.fixed_input[0]}x{entry.fixed_input[1]} only"
    rows = (
        ("family", f"{entry.family}, {size}, {entry.channels}"),
        ("file", f"{path.stat().st_size / 1e6:.1f} MB, sha256 {entry.sha256}"),
        ("trial", f"it runs; one frame took {answer.ms:.0f} ms"),
        ("to use it", f"dualface run VIDEO --detector {entry.name}"),
    )
    out = Out(as_json=False)
    print_rows(out, f"{entry.name}: {path}", rows)
    if answer.seen:
        out.note(
            f"{entry.name} sees {answer.seen} faces in a black picture: check its family, scale "
            "and mean."
        )
