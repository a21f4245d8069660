"""What `dualface models list|pull|remove|bench` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from client.lab import ask
from client.showing import Out, table
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.models import ENTRIES, added_names, choose, entry_of, is_here, locate, pull
from shared.models.added import remove
from shared.models.catalogue import Added, ModelEntry
from shared.models.lab import BenchAnswer, BenchRequest, Candidate
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of `models list`. `problem` says why a model that was added can't be used."""

    name: str
    family: str = ""
    licence: str = ""
    added: bool = True
    auto: bool = False
    here: bool = False
    path: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    long_side_px: int | None = None
    second_long_side_px: int | None = None
    fixed_input: tuple[int, int] | None = None
    problem: str | None = None


def list_command(settings: Settings, *, as_json: bool) -> int:
    """All models, built-in ones first."""
    listed = [_listed(settings, name) for name in _names(settings)]
    out = Out(as_json=as_json)
    if as_json:
        out.line([asdict(each) for each in listed])
        return 0
    table(out, ("model", "family", "licence", "input, px", "MB", "where"), [*map(_row, listed)])
    return 0


def pull_command(settings: Settings, names: Sequence[str], *, everything: bool) -> int:
    """Fetch what is not here; 1 when one of several can't be had."""
    if bool(names) == everything:
        raise PermanentError(ErrorCode.BAD_OPTION, "name the models to fetch, or say --all")
    wanted = _names(settings) if everything else list(dict.fromkeys(names))
    out = Out(as_json=False)
    failed = 0
    for name in wanted:
        try:
            entry = choose(name, _cache(settings), settings.model_folders)
            path = pull(entry.name, _cache(settings), settings.model_folders)
        except DualfaceError as error:
            if len(wanted) == 1:
                raise
            out.error(error.message)
            failed += 1
            continue
        out.say(f"{entry.name}: {path}")
    return 1 if failed else 0


def remove_command(settings: Settings, name: str) -> int:
    """Forget a model that was added."""
    remove(name, _cache(settings))
    print(f"{name} is forgotten.")
    return 0


def bench_command(
    settings: Settings, names: Sequence[str], frames: int, video: Path | None, *, as_json: bool
) -> int:
    """Time the models, in a process of the service's code."""
    cache, folders = _cache(settings), settings.model_folders
    wanted = list(dict.fromkeys(names)) or [
        each.name for each in (_listed(settings, name) for name in _names(settings)) if each.here
    ]
    if not wanted:
        raise PermanentError(
            ErrorCode.MODEL_MISSING, "no model is here yet; run 'dualface models pull --all'"
        )
    chosen = [choose(name, cache, folders) for name in wanted]
    request = BenchRequest(
        models=tuple(
            Candidate(entry=entry, path=locate(entry.name, cache, folders).absolute())
            for entry in chosen
        ),
        frames=frames,
        video=None if video is None else video.absolute(),
        threads=settings.infer_threads,
    )
    answer = ask("services.infer.lab.bench", request, BenchAnswer, None)
    out = Out(as_json=as_json)
    out.line(answer)
    if not as_json:
        _print_bench(out, answer, drawn=video is None)
    return 0


def _print_bench(out: Out, answer: BenchAnswer, *, drawn: bool) -> None:
    heads = ("model", "engine", "look", "input, px", "ms per frame", "10 to 90 %", "ratio")
    rows = [
        (
            row.name,
            row.engine,
            row.look,
            f"{row.input[0]}x{row.input[1]}",
            f"{row.median_ms:.1f}",
            f"{row.p10_ms:.1f} to {row.p90_ms:.1f}",
            f"{row.ratio:.2f}",
        )
        for row in answer.rows
    ]
    table(out, heads, rows)
    width, height = answer.frame
    threads = "1 thread" if answer.threads == 1 else f"{answer.threads} threads"
    out.note(
        f"Medians of {answer.frames} {'drawn ' if drawn else ''}frames of {width}x{height}, "
        f"{threads}, from the frame's planes to its faces; whatever else this machine did "
        "meanwhile is in them. The second look is for frames with fewer than two faces at the "
        "first."
    )


def _names(settings: Settings) -> list[str]:
    added = added_names(_cache(settings), settings.model_folders)
    return [*(entry.name for entry in ENTRIES), *added]


def _listed(settings: Settings, name: str) -> Listed:
    cache, folders = _cache(settings), settings.model_folders
    try:
        entry = entry_of(name, cache, folders)
    except PermanentError as error:
        return Listed(name=name, problem=error.message)
    try:
        path = locate(name, cache, folders) if is_here(name, cache, folders) else None
        auto = choose("auto", cache, folders).name == name
        return _known(entry, path, auto=auto, problem=None)
    except PermanentError as error:
        return _known(entry, None, auto=False, problem=error.message)


def _known(entry: ModelEntry, path: Path | None, *, auto: bool, problem: str | None) -> Listed:
    return Listed(
        name=entry.name,
        family=entry.family,
        licence=entry.licence,
        added=isinstance(entry.origin, Added),
        auto=auto,
        here=path is not None,
        path=None if path is None else str(path),
        size_bytes=None if path is None else path.stat().st_size,
        sha256=entry.sha256,
        long_side_px=entry.long_side_px,
        second_long_side_px=entry.second_long_side_px,
        fixed_input=entry.fixed_input,
        problem=problem,
    )


def _row(each: Listed) -> tuple[str, ...]:
    name = f"{each.name} (auto)" if each.auto else each.name
    size = "" if each.size_bytes is None else f"{each.size_bytes / 1e6:.1f}"
    where = each.problem or each.path or "not fetched"
    return name, each.family, each.licence, _input_text(each), size, where


def _input_text(each: Listed) -> str:
    if each.fixed_input is not None:
        return f"{each.fixed_input[0]}x{each.fixed_input[1]}"
    sides = (each.long_side_px, each.second_long_side_px)
    return ", then ".join(str(side) for side in sides if side)


def _cache(settings: Settings) -> Path:
    return settings.cache_dir / "models"
