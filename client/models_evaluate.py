"""`dualface models quantize` and `dualface models evaluate`: INT8, and whether it may be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from client.options import JsonOption
from shared.settings import Settings

if TYPE_CHECKING:  # pydantic's models and rich: other commands do not need them
    from client.showing import Out
    from shared.jobs import Model
    from shared.models.precision import Evaluation, Progress, Row

    Answer = TypeVar("Answer", bound=Model)

Copy = Literal["int8", "fp16"]
"""As `shared.models.precision.Variant`, whose import would slow down the start of `run`."""

ModelArgument = Annotated[str, typer.Argument(help="A model of `models list`.", metavar="NAME")]


def quantize(
    name: ModelArgument,
    frames: Annotated[
        list[Path],
        typer.Option(help="A video or picture to calibrate on; may be repeated.", metavar="VIDEO"),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(help="More of them.", metavar="[VIDEO]...")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=4096, help="Frames, of all files.")] = 128,
    seed: Annotated[int, typer.Option(help="Another seed takes other frames.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Make an INT8 copy of a model, calibrated on frames of your videos.

    Frames are looked at, sorted by condition (low light, backlight, occlusion, profile, blur,
    normal) and taken from all of them in turn. `models evaluate` then says what the copy is worth.
    """
    raise typer.Exit(_quantize(name, [*frames, *(more or [])], count, seed, as_json=as_json))


def evaluate(
    name: ModelArgument,
    labels: Annotated[
        Path,
        typer.Option(help="Labelled faces: dlib's .xml, WIDER FACE's .txt, .json, .csv."),
    ],
    precision: Annotated[Copy, typer.Option(help="The copy to compare.")] = "int8",
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures. Default: that of the labels.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report for people.", metavar="OUT.html")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a copy of a model with the model itself on labelled pictures, and judge it."""
    raise typer.Exit(_evaluate(name, precision, labels, images, report, as_json=as_json))


def _quantize(name: str, frames: list[Path], count: int, seed: int, *, as_json: bool) -> int:
    from client.showing import Out, table
    from shared.models.precision import SHOWN, Quantized, QuantizeRequest

    name = _fetched(name)
    out = Out(as_json=as_json)
    request = QuantizeRequest(
        name=name, frames=tuple(path.absolute() for path in frames), seed=seed, count=count
    )
    answer = _ask("services.infer.lab.quantize", request, Quantized, out)
    out.line(answer)
    if as_json:
        return 0
    log = answer.log
    rows = [
        (condition.value, str(sum(f.condition is condition for f in log.frames)), str(found))
        for condition in SHOWN
        if (found := log.found.get(condition, 0))
    ]
    table(out, ("condition", "calibrated on", "of found"), rows)
    missing = [each.value for each in SHOWN if not log.found.get(each, 0)]
    if missing:
        out.note(f"None of the frames shows {', '.join(missing)}.")
    if len(log.frames) < log.wanted:
        frames_text = "1 frame" if len(log.frames) == 1 else f"{len(log.frames)} different frames"
        out.note(f"The files have {frames_text}, not {log.wanted}.")
    out.say(f"{answer.file}")
    out.note(f"It is not used yet; next: dualface models evaluate {name} --labels FILE")
    return 0


def _evaluate(
    name: str,
    precision: Copy,
    labels: Path,
    images: Path | None,
    report: Path | None,
    *,
    as_json: bool,
) -> int:
    from client.showing import Out
    from shared.models.precision import Evaluated, EvaluateRequest

    name = _fetched(name)
    out = Out(as_json=as_json)
    request = EvaluateRequest(
        name=name,
        precision=precision,
        labels=labels.absolute(),
        images=None if images is None else images.absolute(),
        report=None if report is None else report.absolute(),
    )
    answer = _ask("services.infer.lab.evaluate", request, Evaluated, out)
    out.line(answer.evaluation)
    if not as_json:
        _print(out, answer.evaluation)
        if report is not None:
            out.note(f"Report: {report}")
    if answer.former is not None:
        out.note(
            "These faces are too few to replace the former evaluation, on "
            f"{answer.former.overall.faces}: {answer.former.verdict.value} goes on deciding."
        )
    return 0


def _fetched(name: str) -> str:
    """The model's own name, for `auto` too. One that is missing is fetched now: the process that
    does the work downloads nothing."""
    from shared.models import choose, pull

    settings = Settings.load()
    cache = settings.cache_dir / "models"
    entry = choose(name, cache, settings.model_folders)
    pull(entry.name, cache, settings.model_folders)
    return entry.name


def _print(out: Out, evaluation: Evaluation) -> None:
    from client.showing import table
    from shared.models.precision import SHOWN

    copy = evaluation.precision.upper()
    heads = ("condition", "faces", "precision", "miss rate", "AP", "lost", "gained", "boxes, IoU")
    found = {each.condition: each for each in evaluation.by_condition}
    by_condition = [found[each] for each in SHOWN if each in found]
    rows = [_row(each) for each in (*by_condition, evaluation.overall)]
    out.say(f"{evaluation.model}: FP32 → {copy}")
    table(out, heads, rows)
    if evaluation.cpu is not None:
        cpu = evaluation.cpu
        out.say(
            f"on this CPU: {cpu.fp32_ms:.1f} → {cpu.variant_ms:.1f} ms, {cpu.ratio:.2f} times as "
            "fast"
        )
    for reason in evaluation.reasons:
        out.say(reason)
    style = {"EXCELLENT": "bold green", "ACCEPTABLE": "bold yellow"}
    verdict = evaluation.verdict.value
    out.say(verdict, style=style.get(verdict, "bold red"))


def _row(row: Row) -> tuple[str, ...]:
    rates = (
        f"{_percent(getattr(row.fp32, name))} → {_percent(getattr(row.variant, name))}"
        for name in ("precision", "miss_rate", "average_precision")
    )
    overlap = "-" if row.box_iou is None else f"{row.box_iou:.3f}"
    lost = (str(row.lost), str(row.gained))
    return (str(row.condition), str(row.faces), *rates, *lost, overlap)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _ask(module: str, request: Model, kind: type[Answer], out: Out) -> Answer:
    """As `client.lab.ask`, and progress is shown while it goes on."""
    from pydantic import ValidationError

    from client.lab import ask
    from shared.models.precision import Progress

    with _shown(out) as show:

        def on_line(line: bytes) -> bool:
            try:
                show(Progress.model_validate_json(line))
            except ValidationError:
                return False
            return True

        return ask(module, request, kind, None, on_line)


@contextmanager
def _shown(out: Out) -> Iterator[Callable[[Progress], None]]:
    """What shows progress: a bar on a terminal, else nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    if not out.errors.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=out.errors, transient=True) as bars:
        bar = bars.add_task("starting", total=None)
        yield lambda step: bars.update(
            bar, description=step.what, completed=step.done, total=step.of
        )
