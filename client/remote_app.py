"""The options of the commands that speak to a running service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    PriorityOption,
    SizeOption,
    WebhookOption,
)
from shared.jobs import Codec, JobState, Layout
from shared.settings import Settings

if TYPE_CHECKING:
    from client.api import JobOptions

CODES = (
    "Exit codes: 0 all well, 1 a job failed, 2 refused or wrong usage, 3 no service answers, "
    "4 a job was cancelled, 128 + signal when interrupted (130: Ctrl-C)."
)

remote_app = typer.Typer(no_args_is_help=True)
keys_app = typer.Typer(help="Keys of the API: add, list, revoke them.", no_args_is_help=True)
remote_app.add_typer(keys_app, name="keys")


def add_remote(app: typer.Typer) -> None:
    """Give `app` these commands; once."""
    if not any(group.typer_instance is remote_app for group in app.registered_groups):
        app.add_typer(remote_app)


def complete_job(incomplete: str) -> list[tuple[str, str]]:
    """Ids of the latest jobs, for a shell: soon, or none; never an error."""
    from client.completing import jobs_like

    return jobs_like(incomplete)


JobArgument = Annotated[
    str, typer.Argument(help="Id of a job.", metavar="JOB", autocompletion=complete_job)
]
JobsArgument = Annotated[
    list[str], typer.Argument(help="Ids of jobs.", metavar="JOB...", autocompletion=complete_job)
]


@remote_app.command(epilog=CODES)
def submit(
    videos: Annotated[
        list[str],
        typer.Argument(help="Videos: files, https://... or s3://BUCKET/KEY.", metavar="VIDEO..."),
    ],
    output: OutputOption = None,
    out: OutOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until they have ended; -o and --out do that too.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="K", help="Of one video: the same key is the same job, ever again."),
    ] = None,
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
    priority: PriorityOption = 5,
    webhook: WebhookOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send videos to a running service; it keeps the results, or they are fetched."""
    from client.remote import Submission, submit_command

    options = job_options(
        layout, size, codec, crf, bitrate, preset, detector, detect_every, fps_limit
    )
    options["priority"] = priority
    if annotate:
        options["annotate"] = True
    if webhook is not None:
        options["webhook"] = webhook
    wanted = Submission(videos, output, out, wait, idempotency_key, options)
    raise typer.Exit(submit_command(wanted, as_json=as_json))


@remote_app.command(epilog=CODES)
def watch(
    folder: Annotated[Path, typer.Argument(help="Videos dropped here are taken.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Folder for the results, NAME-split.mp4 each.")],
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Videos on their way.")] = 2,
    settle: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds unchanged until a file is taken.")
    ] = 3.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Take what failed before once more.")
    ] = False,
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
    priority: PriorityOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Watch a folder: every video that appears there is made, once, until Ctrl-C.

    What was taken is written down in DIR/.dualface, so the next start goes on.
    """
    from client.watch.command import watch_command
    from client.watch.watcher import Wishes

    options = job_options(
        layout, size, codec, crf, bitrate, preset, detector, detect_every, fps_limit
    )
    options["priority"] = priority
    if annotate:
        options["annotate"] = True
    wishes = Wishes(folder, out, at_once, settle, retry_failed, options)
    raise typer.Exit(watch_command(wishes, as_json=as_json))


@remote_app.command(epilog=CODES)
def wait(jobs: JobsArgument, as_json: JsonOption = False) -> None:
    """Follow jobs until they have ended. --json: their events, one a line."""
    from client.remote import wait_command

    raise typer.Exit(wait_command(jobs, as_json=as_json))


@remote_app.command(epilog=CODES)
def get(job: JobArgument, as_json: JsonOption = False) -> None:
    """Show a job."""
    from client.remote import get_command

    raise typer.Exit(get_command(job, as_json=as_json))


@remote_app.command("list", epilog=CODES)
def list_jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Only jobs that have not ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="The latest so many.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="However many there are.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show jobs, newest first."""
    from client.remote import list_command

    most = None if everything else limit
    raise typer.Exit(list_command(state, live=live, most=most, as_json=as_json))


@remote_app.command(epilog=CODES)
def cancel(jobs: JobsArgument, as_json: JsonOption = False) -> None:
    """End jobs."""
    from client.remote import cancel_command

    raise typer.Exit(cancel_command(jobs, as_json=as_json))


@remote_app.command(epilog=CODES)
def retry(jobs: JobsArgument, as_json: JsonOption = False) -> None:
    """Have jobs that failed or were cancelled made again.

    Their sources have to be there still: a video that was sent is kept for a while when its job
    fails, and removed when it is cancelled. Submit that one anew.
    """
    from client.remote import retry_command

    raise typer.Exit(retry_command(jobs, as_json=as_json))


@remote_app.command(epilog=CODES)
def download(job: JobArgument, output: OutputOption = None, as_json: JsonOption = False) -> None:
    """Fetch the result of a job. Default: NAME-split.mp4 in this folder."""
    from client.remote import download_command

    raise typer.Exit(download_command(job, output, as_json=as_json))


@remote_app.command(epilog=CODES)
def system(as_json: JsonOption = False) -> None:
    """Show workers, limits and queues; needs an admin's key."""
    from client.remote import system_command

    raise typer.Exit(system_command(as_json=as_json))


@keys_app.command("add", epilog=CODES)
def keys_add(
    owner: Annotated[str, typer.Argument(help="Whose: keys of one owner see the same jobs.")],
    role: Annotated[
        list[str], typer.Option(help="submit, read, metrics or admin; may be repeated.")
    ] = ["submit", "read"],  # noqa: B006 - Typer copies it
    per_minute: Annotated[int, typer.Option(min=1, help="Requests.")] = 600,
    most_live: Annotated[
        int, typer.Option(min=0, help="Jobs that have not ended; 0: any number.")
    ] = 100,
    most_bytes: Annotated[
        int, typer.Option(min=0, help="Of one upload; 0: as many as any source may have.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a key, of the stack that is up or of DUALFACE_REDIS_URL. It is shown this once."""
    from client.keys import add_command

    limits = (per_minute, most_live, most_bytes)
    raise typer.Exit(add_command(Settings.load(), owner, role, *limits, as_json=as_json))


@keys_app.command("list", epilog=CODES)
def keys_list(as_json: JsonOption = False) -> None:
    """Show the keys, without their secrets."""
    from client.keys import list_command

    raise typer.Exit(list_command(Settings.load(), as_json=as_json))


@keys_app.command("revoke", epilog=CODES)
def keys_revoke(
    key: Annotated[str, typer.Argument(help="An id of `keys list`.", metavar="ID")],
) -> None:
    """Have a key and its sessions open nothing any more."""
    from client.keys import revoke_command

    raise typer.Exit(revoke_command(Settings.load(), key))


def job_options(
    layout: Layout,
    size: str | None,
    codec: Codec,
    crf: int,
    bitrate: int | None,
    preset: str,
    detector: str,
    detect_every: int | None,
    fps_limit: float | None,
) -> JobOptions:
    """As the API wants them. Raises PermanentError BAD_OPTION for a size that is none."""
    parsed = None
    if size is not None:
        from client.requests import parse_size  # brings FFmpeg

        parsed = parse_size(size)
    return {
        "layout": layout,
        "size": parsed,
        "codec": codec,
        "crf": crf,
        "bitrate_kbps": bitrate,
        "preset": preset,
        "detector": detector,
        "detect_every": detect_every,
        "fps_limit": fps_limit,
    }
