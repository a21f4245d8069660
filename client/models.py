"""The options of `dualface models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.models_evaluate import evaluate, quantize
from client.options import JsonOption
from shared.settings import Settings

models_app = typer.Typer(
    help="Detection models: list, fetch, add, measure them.", no_args_is_help=True
)

NamesArgument = Annotated[
    list[str] | None, typer.Argument(help="Models of `models list`.", metavar="NAME...")
]


@models_app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """Show the models that are known, and where they lie."""
    from client.models_commands import list_command

    raise typer.Exit(list_command(Settings.load(), as_json=as_json))


@models_app.command("pull")
def pull_models(
    names: NamesArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="All of `models list`.")] = False,
) -> None:
    """Fetch models, check them, keep them in the cache."""
    from client.models_commands import pull_command

    raise typer.Exit(pull_command(Settings.load(), names or [], everything=everything))


@models_app.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help="What `--detector` will call it.")],
    source: Annotated[str, typer.Argument(help="A file, or https://...", metavar="FILE|URL")],
    family: Annotated[
        str, typer.Option(help="yolov8-face, scrfd, rt-detr, yunet or centerface.", metavar="F")
    ],
    sha256: Annotated[str | None, typer.Option(help="Refuse any other file.")] = None,
    licence: Annotated[str, typer.Option(help="Shown in `models list`.")] = "not stated",
    fixed_input: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="The only size it takes. Default: what the file says."),
    ] = None,
    long_side: Annotated[
        int | None, typer.Option(metavar="PX", help="Longer side of the picture, if it takes any.")
    ] = None,
    channels: Annotated[str | None, typer.Option(help="RGB or BGR.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="(sample - mean) * SCALE; 1/255 will do.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="One number, or one per channel: A,B,C.")] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="The least score of a face, on the model's own scale.")
    ] = None,
    sure_score: Annotated[
        float | None, typer.Option(help="The score from which a face is sure, on the same scale.")
    ] = None,
) -> None:
    """Add a model of a known family: copy it, try it, remember how it wants its pictures.

    What is left out is what models of its family are usually trained with.
    """
    from client.models_add import Wishes, add_command

    wishes = Wishes(
        name=name,
        source=source,
        family=family,
        sha256=sha256,
        licence=licence,
        fixed_input=fixed_input,
        long_side=long_side,
        channels=channels,
        scale=scale,
        mean=mean,
        score_threshold=score_threshold,
        sure_score=sure_score,
    )
    raise typer.Exit(add_command(Settings.load(), wishes))


@models_app.command("remove")
def remove_model(
    name: Annotated[str, typer.Argument(help="A model that was added.")],
) -> None:
    """Forget a model that was added, and its file in the cache."""
    from client.models_commands import remove_command

    raise typer.Exit(remove_command(Settings.load(), name))


@models_app.command("bench")
def bench_models(
    names: NamesArgument = None,
    frames: Annotated[int, typer.Option(min=1, max=10_000, help="Frames to look at.")] = 50,
    video: Annotated[
        Path | None, typer.Option("--input", help="A video to take them from.", metavar="VIDEO")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how long models take per frame on this machine. Default: all that are here."""
    from client.models_commands import bench_command

    code = bench_command(Settings.load(), names or [], frames, video, as_json=as_json)
    raise typer.Exit(code)


models_app.command("quantize")(quantize)
models_app.command("evaluate")(evaluate)
