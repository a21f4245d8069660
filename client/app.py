"""The options of the `dualface` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.config import config_app
from client.models import models_app
from client.options import (
    AnnotateOption,
    BitrateOption,
    CodecOption,
    CrfOption,
    DetectEveryOption,
    DetectorOption,
    FpsLimitOption,
    JsonOption,
    LayoutOption,
    OutOption,
    OutputOption,
    PresetOption,
    SizeOption,
)
from shared.jobs import Codec, Layout
from shared.settings import Settings

app = typer.Typer(
    name="dualface",
    help="Turn videos of two people into steady split-screen videos.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(models_app, name="models")
dead_app = typer.Typer(
    help="Messages that no worker could read: list, show, requeue, drop.", no_args_is_help=True
)
app.add_typer(dead_app, name="dead")
app.add_typer(config_app, name="config")


@app.command()
def run(
    inputs: Annotated[list[Path], typer.Argument(help="Videos of two people.", metavar="VIDEO...")],
    output: OutputOption = None,
    out: OutOption = None,
    layout: LayoutOption = Layout.SIDE_BY_SIDE,
    size: SizeOption = None,
    codec: CodecOption = Codec.H264,
    crf: CrfOption = 23,
    bitrate: BitrateOption = None,
    preset: PresetOption = "veryfast",
    detector: DetectorOption = "auto",
    detect_every: DetectEveryOption = None,
    fps_limit: FpsLimitOption = None,
    annotate: AnnotateOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Probe, plan and estimate; write nothing.")
    ] = False,
) -> None:
    """Make split-screen videos on this machine. Starts all it needs, leaves nothing behind."""
    from client.commands import run_command
    from client.requests import Options

    options = Options(
        *(layout, size, codec, crf, preset, detector, detect_every, fps_limit),
        bitrate=bitrate,
        annotate=annotate,
    )
    code = run_command(Settings.load(), inputs, output, out, options, dry_run=dry_run)
    raise typer.Exit(code)


@app.command()
def up(
    flower: Annotated[bool, typer.Option("--flower", help="With Flower, to watch tasks.")] = False,
) -> None:
    """Start the stack and its API, and keep them running until Ctrl-C."""
    from client.commands import up_command

    raise typer.Exit(up_command(Settings.load(), flower=flower))


@app.command()
def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only what starts no other process: under a second.")
    ] = False,
    as_json: JsonOption = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write the findings, as JSON, to this file.")
    ] = None,
) -> None:
    """Look what of this machine works, and say what to do about the rest. Exit code 1: problems."""
    from client.doctor.command import doctor_command

    code = doctor_command(Settings.load(), quick=quick, as_json=as_json, report_file=report)
    raise typer.Exit(code)


@app.command()
def sample(
    path: Annotated[Path, typer.Argument(help="Where to write the video (.mp4).")],
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Its length.")] = 12.0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT.")] = "1280x720",
    seed: Annotated[int, typer.Option(help="Another seed moves the people differently.")] = 1,
) -> None:
    """Draw a sample video of two people, with its ground truth beside it (.json)."""
    from client.commands import sample_command

    raise typer.Exit(sample_command(Settings.load(), path, seconds, size, seed))


LETTER = Annotated[str, typer.Argument(help="An id of `dead list`.")]


@dead_app.command("list")
def dead_list(as_json: JsonOption = False) -> None:
    """Show the messages that no worker could read, with the reasons."""
    from client.dead import list_command

    raise typer.Exit(list_command(Settings.load(), as_json=as_json))


@dead_app.command("show")
def dead_show(letter: LETTER) -> None:
    """Show one of them whole."""
    from client.dead import show_command

    raise typer.Exit(show_command(Settings.load(), letter))


@dead_app.command("requeue")
def dead_requeue(letter: LETTER) -> None:
    """Send it to its queue once more, for example after an upgrade."""
    from client.dead import requeue_command

    raise typer.Exit(requeue_command(Settings.load(), letter))


@dead_app.command("drop")
def dead_drop(letter: LETTER) -> None:
    """Forget it."""
    from client.dead import drop_command

    raise typer.Exit(drop_command(Settings.load(), letter))
