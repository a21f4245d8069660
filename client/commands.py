"""What the commands do, apart from parsing their options."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from client.estimate import estimate
from client.progress import Display
from client.requests import Options, Request, make_request, parse_size
from client.run import InterruptedRunError, Outcome, default_output, interruptible, run_jobs
from client.stack import running_stack
from shared.arena.__main__ import budget_bytes
from shared.errors import ErrorCode, PermanentError
from shared.ledger import STAGES
from shared.models import choose, is_here, pull
from shared.settings import MIB, Settings

START_S = 3.0
"""Starting and stopping the stack."""


def run_command(
    settings: Settings,
    inputs: Sequence[Path],
    output: Path | None,
    out: Path | None,
    options: Options,
    *,
    dry_run: bool,
) -> int:
    """Exit code: 0 all well, 1 a job failed, 2 nothing could be started, 130 interrupted."""
    console = Console(soft_wrap=True, markup=False)
    errors = Console(stderr=True, soft_wrap=True, markup=False)
    if output is not None and (out is not None or len(inputs) > 1):
        raise PermanentError(
            ErrorCode.BAD_OPTION, "--output names one file; use --out FOLDER for several videos."
        )
    folder = out or Path()
    if not dry_run and out is not None:
        _make_folder(out)
    requests, problems = _requests(
        inputs, output, folder, options, dry_run=dry_run and out is not None
    )
    if dry_run:
        choose(options.detector, settings.cache_dir / "models", settings.model_folders)
    for problem in problems:
        errors.print(f"dualface: {problem}", style="red", highlight=False)
    if dry_run:
        for request in requests:
            _print_plan(console, settings, request)
        return 2 if problems else 0
    if not requests:
        return 2
    _ensure_model(settings, options.detector, console)
    try:
        outcomes = run_jobs(settings, requests, Display(console))
    except InterruptedRunError as error:
        errors.print(f"dualface: {error.message}", highlight=False)
        return 128 + error.number
    for outcome in outcomes:
        _print_outcome(console, errors, outcome)
    if len(outcomes) > 1:
        _print_total(console, outcomes)
    return 1 if problems or any(outcome.error for outcome in outcomes) else 0


def up_command(settings: Settings, *, flower: bool = False) -> int:
    """Keep a stack running; 0 when asked to stop."""
    console = Console(soft_wrap=True)
    try:
        with interruptible(), running_stack(settings, for_others=True) as stack:
            if stack.joined:
                raise PermanentError(ErrorCode.BUSY, "The stack is up already, in another process.")
            stack.wait_until_consuming()
            stack.wait_until_serving()
            if flower:
                stack.serve_flower()
            console.print(
                f"The stack is up; `dualface run` uses it. Logs: {settings.state_dir / 'logs'}",
                highlight=False,
            )
            # Behind the "#" it stays in the browser, which exchanges it for a session.
            console.print(f"Page and API: {stack.api_url}/#key={stack.api_key}", highlight=False)
            if flower:
                from shared.queues.flower import JOBS_PAGE  # Celery, which only --flower asks for

                chosen = stack.settings
                password = chosen.flower_password.get_secret_value()
                console.print(
                    f"Flower: http://{chosen.flower_host}:{chosen.flower_port}{JOBS_PAGE} "
                    f"(user {chosen.flower_user}, password {password})",
                    highlight=False,
                )
            while True:
                stack.watch()
                time.sleep(0.2)
    except InterruptedRunError:
        return 0


def sample_command(settings: Settings, path: Path, seconds: float, size: str, seed: int) -> int:
    """Draw the sample video."""
    from client.sample import make_sample  # NumPy and OpenCV: 0.5 s that no other command needs

    cache = settings.cache_dir / "portraits"
    make_sample(path, seconds=seconds, size=parse_size(size), seed=seed, portraits=cache)
    Console(soft_wrap=True, markup=False).print(
        f"{path}: {seconds:g} s of two people; ground truth in {path.with_suffix('.json')}"
    )
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The output folder {folder} can't be made ({error.strerror}).",
        ) from error


def _requests(
    inputs: Sequence[Path], output: Path | None, folder: Path, options: Options, *, dry_run: bool
) -> tuple[list[Request], list[str]]:
    requests: list[Request] = []
    problems: list[str] = []
    taken: set[str] = set()
    for path in inputs:
        target = output or default_output(path, folder, taken)
        taken.add(target.name)
        try:
            requests.append(make_request(path, target, options, dry_run=dry_run))
        except PermanentError as error:
            problems.append(error.message)
    return requests, problems


def _ensure_model(settings: Settings, detector: str, console: Console) -> None:
    """Fetch the model now, where a person sees it, rather than in a worker."""
    cache = settings.cache_dir / "models"
    entry = choose(detector, cache, settings.model_folders)
    if not is_here(entry.name, cache, settings.model_folders):
        console.print(f"Fetching the detection model {entry.name} (once).")
        pull(entry.name, cache, settings.model_folders)


def _print_plan(console: Console, settings: Settings, request: Request) -> None:
    source, plan = request.source, request.plan
    arena = budget_bytes(settings)
    slot_bytes = arena // (settings.decoded_slots + settings.composed_slots)
    told = estimate(request, slot_bytes, settings.batch_frames, settings.segment_target_s)
    cores = os.cpu_count() or 1
    kept = sum(sound.copied for sound in source.sounds)
    quality = f"crf {plan.crf}"
    if request.spec.bitrate_kbps is not None:
        quality = f"{request.spec.bitrate_kbps} kbit/s"
    rows = [
        ("source", f"{source.width}x{source.height} {source.codec}, "
         + (f"{told.frames} frames by its header" if told.frames else "length unknown")),
        ("result", f"{request.output}: {plan.width}x{plan.height} {plan.codec.value}, "
         f"{quality}, {plan.preset}"),
        ("sound", f"{kept} kept as it is, {len(source.sounds) - kept} re-encoded to AAC"),
        ("pieces", f"about {told.segments or '?'} segments, {told.batches or '?'} batches"),
        ("shared memory", f"{arena // MIB} MiB in {settings.shm_dir}"),
        ("disk", f"{_mib_text(source.size_bytes)} of segments in {settings.store_path}"),
    ]  # fmt: skip
    if told.size_bytes and told.cpu_s:
        rows += [
            ("size", f"roughly {_mib_text(told.size_bytes)} and the sound; half or twice that is "
             "possible"),
            ("time", f"roughly {told.cpu_s / cores + START_S:.0f} s on {cores} cores, as measured "
             "with an interview in 1080p; half or twice that is possible"),
        ]  # fmt: skip
    console.print(str(request.input), style="bold", highlight=False)
    for name, text in rows:
        console.print(f"  {name + ':':20}{text}", highlight=False)


def _mib_text(size_bytes: int) -> str:
    return f"{max(size_bytes / MIB, 0.1):.1f} MiB"


def _print_outcome(console: Console, errors: Console, outcome: Outcome) -> None:
    request, view, result = outcome.request, outcome.view, outcome.result
    if outcome.error is not None or view is None or result is None:
        reason = outcome.error or "it ended without a result"
        errors.print(f"dualface: {request.input}: {reason}", style="red", highlight=False)
        return
    engines = ", ".join(f"{stage} {view.engines.get(stage, '-')}" for stage in STAGES)
    sounds = []
    if result.sounds_copied:
        sounds.append(f"{result.sounds_copied} kept as it was")
    if result.sounds_encoded:
        sounds.append(f"{result.sounds_encoded} re-encoded to AAC")
    console.print(str(request.output), style="bold", highlight=False)
    rows = [
        ("frames", _rate_text(result.frames, outcome.seconds)),
        ("engines", engines),
        ("people found", str(result.people)),
        ("sound", ", ".join(sounds) or "none in the source"),
        ("CPU s/1000 frames", _cpu_text(view.cpu_s, result.frames)),
    ]
    if result.frames_lost:
        rows.append(("lost", f"{result.frames_lost} frames could not be decoded"))
    if result.frames_concealed:
        rows.append(("damaged", f"{result.frames_concealed} frames show concealed damage"))
    if result.frames_dropped:
        rows.append(("dropped", f"{result.frames_dropped} frames by the frame-rate limit"))
    rows += [("note", warning) for warning in result.warnings]
    for name, text in rows:
        console.print(f"  {name + ':':20}{text}", highlight=False)


def _print_total(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Videos of one run share the machine: their rates mean little, the sum does."""
    results = [outcome.result for outcome in outcomes if outcome.error is None]
    frames = sum(result.frames for result in results if result is not None)
    seconds = max(outcome.seconds for outcome in outcomes)
    text = f"{len(results)} of {len(outcomes)} videos; frames: {_rate_text(frames, seconds)}"
    console.print(text, highlight=False)


def _rate_text(frames: int, seconds: float) -> str:
    return f"{frames} in {seconds:.1f} s = {frames / seconds:.1f} frames/s"


def _cpu_text(cpu_s: dict[str, float], frames: int) -> str:
    per = {stage: 1000 * cpu_s.get(stage, 0.0) / max(1, frames) for stage in STAGES}
    return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in per.items())
