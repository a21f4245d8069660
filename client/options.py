"""Options that several commands have; each is explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.jobs import Codec, Layout

OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Result of a single video (.mp4, .mov).")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the results, NAME-split.mp4 each.")
]
LayoutOption = Annotated[
    Layout, typer.Option(help="Tiles beside each other, or one above the other.")
]
SizeOption = Annotated[
    str | None,
    typer.Option(help="WIDTHxHEIGHT of the result. Default: the source's, up to 1920x1080."),
]
CodecOption = Annotated[Codec, typer.Option(help="Video codec of the result; AV1 in .mp4 only.")]
CrfOption = Annotated[
    int,
    typer.Option(min=0, max=51, help="Quality, on x264's scale: lower is better and larger."),
]
BitrateOption = Annotated[
    int | None,
    typer.Option(min=50, max=800_000, help="kbit/s of the picture, constant, instead of crf."),
]
PresetOption = Annotated[
    str, typer.Option(help="x264's name, ultrafast to placebo: slower is smaller.")
]
DetectorOption = Annotated[
    str, typer.Option(help="Face detection model; `dualface models list` shows them.")
]
DetectEveryOption = Annotated[
    int | None, typer.Option(min=1, max=60, help="Look for faces on every n-th frame.")
]
FpsLimitOption = Annotated[
    float | None, typer.Option(help="Drop frames beyond this many per second.")
]
AnnotateOption = Annotated[
    bool, typer.Option("--annotate", help="Draw a box around the face that each tile follows.")
]
PriorityOption = Annotated[int, typer.Option(min=0, max=9, help="Of other jobs: 9 is urgent.")]
WebhookOption = Annotated[
    str | None, typer.Option(help="Address that is told when the job has ended.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
