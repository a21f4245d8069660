"""From what a person typed to job specs; all that can be checked before work starts is."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from shared.errors import ErrorCode, PermanentError
from shared.jobs import Codec, JobSpec, Layout, OutputPlan, SourceInfo
from shared.media.canvas import plan_output
from shared.media.probe import probe
from shared.names import source_key

Container = Literal["mp4", "mov"]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `dualface run`, as typed."""

    layout: Layout = Layout.SIDE_BY_SIDE
    size: str | None = None
    codec: Codec = Codec.H264
    crf: int = 23
    preset: str = "veryfast"
    detector: str = "auto"
    detect_every: int | None = None
    fps_limit: float | None = None
    priority: int = 5
    bitrate: int | None = None
    annotate: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One video to make. `job` depends on source, output and options only, so that the same command
    after a crash finds its job again."""

    job: str
    input: Path
    output: Path
    spec: JobSpec
    source: SourceInfo
    plan: OutputPlan


def make_request(path: Path, output: Path, options: Options, *, dry_run: bool = False) -> Request:
    """Probe the source, check the output. Raises PermanentError with one sentence."""
    container = _container(output)
    source = probe(path, container)
    check_writable(output, path, dry_run=dry_run)
    facts = path.stat()
    spec = _spec(path, container, options, "")
    identity = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}|{output.resolve()}|{spec}"
    job = hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]
    suffix = path.suffix if path.suffix.isascii() and len(path.suffix) <= 8 else ""
    spec = spec.model_copy(update={"source": source_key(job, suffix)})
    return Request(job, path, output, spec, source, plan_output(spec, source))


def parse_size(text: str) -> tuple[int, int]:
    """`1280x720` as numbers. Raises PermanentError for anything else."""
    found = re.fullmatch("([0-9]{1,9})x([0-9]{1,9})", text.lower())
    if found is None:
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"The size {text!r} is not WIDTHxHEIGHT, for example 1280x720."
        )
    return int(found[1]), int(found[2])


def check_writable(output: Path, source: Path | None = None, *, dry_run: bool = False) -> None:
    """Raise PermanentError OUTPUT_UNWRITABLE when the output can't be put in place later.

    `dry_run`: by looking only; its folder may be one that is made later.
    """
    try:
        is_folder = output.is_dir()
    except OSError as error:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE, f"The output {output} can't be written ({error.strerror})."
        ) from error
    if is_folder:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE, f"The output {output} is a folder; name a file."
        )
    if source is not None and _is_same(output, source):
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The output {output} is the source itself; choose another name.",
        )
    if dry_run:
        folder = next(each for each in output.absolute().parents if each.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise PermanentError(
                ErrorCode.OUTPUT_UNWRITABLE, f"The folder {folder} can't be written."
            )
        return
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            return
    except OSError as error:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The output folder {output.parent} can't be written ({error.strerror}).",
        ) from error


def _is_same(one: Path, other: Path) -> bool:
    """False also where one of them is not there, or can't be looked at."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _container(output: Path) -> Container:
    suffix = output.suffix.lower()
    if suffix == ".mp4":
        return "mp4"
    if suffix == ".mov":
        return "mov"
    raise PermanentError(
        ErrorCode.BAD_OPTION, f"The output {output} must end in .mp4 or .mov, which it does not."
    )


def _spec(path: Path, container: Container, options: Options, source: str) -> JobSpec:
    try:
        return JobSpec(
            source=source,
            # Names of files need not be text.
            name=os.fsencode(path.name).decode(errors="replace"),
            container=container,
            layout=options.layout,
            size=parse_size(options.size) if options.size else None,
            codec=options.codec,
            crf=options.crf,
            bitrate_kbps=options.bitrate,
            preset=options.preset,
            detector=options.detector,
            detect_every=options.detect_every,
            fps_limit=options.fps_limit,
            annotate=options.annotate,
            priority=options.priority,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise PermanentError(ErrorCode.BAD_OPTION, f"{name}: {first['msg']}.") from error
