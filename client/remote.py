"""The commands that speak to a running service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from client.api import (
    ApiError,
    AsyncClient,
    BusyError,
    Client,
    Job,
    JobOptions,
    JobState,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
)
from client.api.flows import is_reference
from client.placing import split_name
from client.requests import check_writable
from client.run import InterruptedRunError
from client.showing import Bars, Out, job_rows, job_table, plain, print_rows, table
from client.stopping import stoppable
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.jobs import NAME_MOST, read_spec
from shared.rest import GpuOut

OK, FAILED, REFUSED, UNREACHABLE, CANCELLED = 0, 1, 2, 3, 4
SENT_AT_ONCE = 2
WAITED_AT_ONCE = 64
SEVERITY = (OK, CANCELLED, FAILED, REFUSED, UNREACHABLE)
"""Of several outcomes the last one of these is the command's."""

T = TypeVar("T")


@dataclass(frozen=True)
class Submission:
    """What `dualface submit` was asked for."""

    videos: Sequence[str]
    output: Path | None
    out: Path | None
    wait: bool
    idempotency_key: str | None
    options: JobOptions


@dataclass(frozen=True)
class _Order:
    """One video: what it is, what people call it, and where its result goes, if it is fetched."""

    source: Path | str
    name: str
    target: Path | None
    options: JobOptions


def submit_command(wanted: Submission, *, as_json: bool) -> int:
    """Send videos; follow them and fetch their results where that is wanted."""
    orders = _orders(wanted)
    out = Out(as_json=as_json)
    follow = wanted.wait or wanted.output is not None or wanted.out is not None
    if wanted.out is not None:
        _make_folder(wanted.out)
    sent: list[Job] = []

    async def work() -> int:
        async with AsyncClient() as client:
            with Bars(out) as bars:
                run = _Run(client, out, bars, follow, wanted.idempotency_key, sent)
                return worst(await _all(run.make, orders, WAITED_AT_ONCE))

    try:
        return reported(out, lambda: stoppable(work()))
    except InterruptedRunError as error:
        return _interrupted(out, error, [job.id for job in sent])


def wait_command(jobs: Sequence[str], *, as_json: bool) -> int:
    """Follow jobs until they have ended."""
    out = Out(as_json=as_json)

    async def work() -> int:
        async with AsyncClient() as client:
            with Bars(out) as bars:

                async def one(job_id: str) -> int:
                    with told(out, {"job": job_id}) as codes:
                        found = await client.get(job_id)
                        ended = await follow(client, found, out, bars, events=True)
                        _say_ended(out, ended, None)
                        codes.append(code_of(ended))
                    return worst(codes)

                return worst(await _all(one, jobs, WAITED_AT_ONCE))

    try:
        return reported(out, lambda: stoppable(work()))
    except InterruptedRunError as error:
        return _interrupted(out, error, jobs)


def get_command(job: str, *, as_json: bool) -> int:
    """Show a job."""
    out = Out(as_json=as_json)

    def work() -> int:
        with Client() as client:
            found = client.get(job)
        out.line(found)
        print_rows(out, found.id, job_rows(found))
        return OK

    return reported(out, work)


def list_command(state: JobState | None, *, live: bool, most: int | None, as_json: bool) -> int:
    """Show jobs, newest first; `most`: how many, None for all."""
    out = Out(as_json=as_json)
    if state is not None and live:
        raise PermanentError(ErrorCode.BAD_OPTION, "--state and --live are two filters; give one.")

    def work() -> int:
        with Client() as client:
            page = 200 if most is None else min(200, most)
            jobs = list(islice(client.list(state=state, live=live, page=page), most))
        out.line(jobs)
        if jobs and not as_json:
            job_table(out, jobs)
        elif not jobs:
            out.note("No jobs.")
        return OK

    return reported(out, work)


def cancel_command(jobs: Sequence[str], *, as_json: bool) -> int:
    """End jobs."""
    return _each(jobs, lambda client, job: client.cancel(job), as_json=as_json)


def retry_command(jobs: Sequence[str], *, as_json: bool) -> int:
    """Have jobs made again."""
    return _each(jobs, lambda client, job: client.retry(job), as_json=as_json)


def download_command(job: str, output: Path | None, *, as_json: bool) -> int:
    """Fetch a result."""
    out = Out(as_json=as_json)

    async def work() -> int:
        async with AsyncClient() as client:
            found = await client.get(job)
            target = output or Path(result_name(found))
            with Bars(out) as bars:
                size = await client.result(
                    found,
                    target,
                    on_progress=lambda done, total: bars.bytes(
                        found.name or job, "fetching", done, total
                    ),
                )
        out.line({"job": found.id, "output": str(target), "bytes": size})
        out.say(str(target))
        return OK

    try:
        return reported(out, lambda: stoppable(work()))
    except InterruptedRunError as error:
        return 128 + error.number


def system_command(*, as_json: bool) -> int:
    """Show the cluster."""
    out = Out(as_json=as_json)

    def work() -> int:
        with Client() as client:
            found = client.system()
        out.line(found)
        if as_json:
            return OK
        live = sum(n for state, n in found.jobs.items() if not JobState(state).ended)
        facts = [
            ("version", found.version),
            ("jobs", f"{live} live; " + ", ".join(f"{n} {s}" for s, n in found.jobs.items() if n)),
            ("speed", f"{found.frames_per_s:g} frames/s"),
            ("dead letters", str(found.dead_letters)),
        ]
        print_rows(out, "service", facts)
        gpus = [(plain(each.name), _gpu_now(each)) for each in found.gpus]
        print_rows(out, "GPUs", gpus or [("none", "the CPUs do all the work")])
        engines = [
            (stage, ", ".join(f"{plain(name)} ({jobs})" for name, jobs in sorted(each.items())))
            for stage, each in found.engines.items()
            if each
        ]
        if engines:
            print_rows(out, "engines of running jobs", engines)
        print_rows(out, "workers", [(each.stage, plain(each.id)) for each in found.workers])
        rows = [(f"{e.used}/{e.capacity}", str(e.waiting), e.thing) for e in found.limits]
        table(out, ("in use", "waiting", "limit"), rows)
        table(out, ("messages", "queue"), [(str(e.messages), e.queue) for e in found.queues])
        return OK

    return reported(out, work)


def _gpu_now(gpu: GpuOut) -> str:
    """How busy and full a GPU is."""
    shares = (("", gpu.busy), ("NVDEC ", gpu.decoder_busy), ("NVENC ", gpu.encoder_busy))
    told = [f"{name}{share:.0%}" for name, share in shares if share is not None]
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes:
        gib = 1 << 30
        told.append(f"{gpu.memory_used_bytes / gib:.1f} of {gpu.memory_total_bytes / gib:.0f} GiB")
    return ", ".join([*told, plain(gpu.host)])


# --- following ------------------------------------------------------------------------------------


class _Run:
    """`dualface submit` at work."""

    def __init__(
        self,
        client: AsyncClient,
        out: Out,
        bars: Bars,
        follow: bool,
        key: str | None,
        sent: list[Job],
    ) -> None:
        """`sent`: gets every job as it is accepted."""
        self._client, self._out, self._bars = client, out, bars
        self._follow, self._key, self._sent = follow, key, sent
        self._room = asyncio.Semaphore(SENT_AT_ONCE)

    async def make(self, order: _Order) -> int:
        """One video to its end; the exit code it stands for."""
        with told(self._out, {"video": order.name}, order.name) as codes:
            async with self._room:
                job = await self._client.submit(
                    order.source,
                    idempotency_key=self._key,
                    on_progress=lambda done, total: self._bars.bytes(
                        order.name, "sending", done, total
                    ),
                    **order.options,
                )
            self._sent.append(job)
            if not self._follow:
                self._bars.over(order.name)
                self._out.line({"video": order.name, "job": job, "output": None})
                self._out.say(f"{job.id}  {plain(order.name)}")
                return OK
            ended = await follow(self._client, job, self._out, self._bars, label=order.name)
            await self._fetch(order, ended)
            codes.append(code_of(ended))
        return worst(codes)

    async def _fetch(self, order: _Order, job: Job) -> None:
        target = order.target if job.state is JobState.SUCCEEDED else None
        if target is not None:
            await self._client.result(
                job,
                target,
                on_progress=lambda done, total: self._bars.bytes(
                    order.name, "fetching", done, total
                ),
            )
        self._bars.over(order.name)
        output = None if target is None else str(target)
        self._out.line({"video": order.name, "job": job, "output": output})
        _say_ended(self._out, job, target, order.name)


async def follow(
    client: AsyncClient,
    job: Job,
    out: Out,
    bars: Bars,
    *,
    label: str = "",
    events: bool = False,
) -> Job:
    """Until it has ended; `events`: told as lines too. Where nobody else may watch, it polls."""
    name, after = label or job.name or job.id, None
    while True:
        try:
            async for told_ in client.events(job, after):
                after = told_.id
                bars.event(name, told_.event)
                if events:
                    out.line({"job": job.id, "id": told_.id, "event": told_.kind,
                              **_present(told_.event.model_dump(mode="json"))})  # fmt: skip
        except BusyError:
            await asyncio.sleep(1.0)
        found = await client.get(job)
        if found.state.ended:
            bars.over(name)
            return found


def code_of(job: Job) -> int:
    """The exit code that the end of a job stands for."""
    codes = {JobState.FAILED: FAILED, JobState.CANCELLED: CANCELLED}
    return codes.get(job.state, OK)


def worst(codes: Sequence[int]) -> int:
    """The exit code of several."""
    return max(codes, key=SEVERITY.index, default=OK)


# --- errors ---------------------------------------------------------------------------------------


def reported(out: Out, work: Callable[[], int]) -> int:
    """Do it; an error of the API, or that there is none, becomes one line and an exit code."""
    try:
        return work()
    except ApiError as error:
        out.error(sentence(error))
        return code_of_error(error)
    except PermanentError as error:
        if error.code is not ErrorCode.STACK_FAILED:
            raise
        out.error(error.message)
        return UNREACHABLE


@contextmanager
def told(out: Out, facts: dict[str, object], name: str = "") -> Iterator[list[int]]:
    """Errors of one of several things are told, and don't end the others."""
    codes: list[int] = []
    begin = f"{plain(name)}: " if name else ""
    try:
        yield codes
    except ApiError as error:
        out.error(begin + sentence(error))
        out.line({**facts, "error": {"code": error.code, "message": error.detail}})
        codes.append(code_of_error(error))
    except DualfaceError as error:
        out.error(begin + plain(error.message))
        out.line({**facts, "error": {"code": error.code.value, "message": error.message}})
        codes.append(REFUSED if isinstance(error, PermanentError) else FAILED)
    except OSError as error:
        out.error(f"{begin}{plain(str(error))}.")
        said = {"code": ErrorCode.INTERNAL.value, "message": str(error)}
        out.line({**facts, "error": said})
        codes.append(FAILED)


def code_of_error(error: ApiError) -> int:
    """2 where the request is at fault, else 3: the service is not there, or not able to."""
    return REFUSED if isinstance(error, RefusedError) else UNREACHABLE


def sentence(error: ApiError) -> str:
    """For people, with what they can do."""
    text = plain(error.detail)
    if isinstance(error, UnreachableError):
        return f"{text} Is it up? `dualface up` starts one; DUALFACE_API_URL names another."
    if isinstance(error, UnauthorizedError):
        return f"{text} Commands take the key from DUALFACE_API_KEY."
    return text


# --- pieces ---------------------------------------------------------------------------------------


def result_name(job: Job) -> str:
    """What a download is called: "talk.mov" gives "talk-split.mp4". Leads to no other folder."""
    stem = Path(job.name.replace("\\", "/")).stem.lstrip(".") or job.id
    return split_name(plain(stem), f".{job.spec.container}")


async def _all(
    make: Callable[[T], Coroutine[object, object, int]], things: Sequence[T], at_once: int
) -> list[int]:
    room = asyncio.Semaphore(at_once)

    async def one(thing: T) -> int:
        async with room:
            return await make(thing)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(thing)) for thing in things]
    return [task.result() for task in tasks]


def _each(jobs: Sequence[str], do: Callable[[Client, str], Job], *, as_json: bool) -> int:
    out = Out(as_json=as_json)

    def work() -> int:
        codes: list[int] = []
        with Client() as client:
            for job in jobs:
                with told(out, {"id": job}, job) as found:
                    made = do(client, job)
                    out.line(made)
                    out.say(f"{made.id}  {made.state.value}")
                codes += found
        return worst(codes)

    return reported(out, work)


def _orders(wanted: Submission) -> list[_Order]:
    """Raises PermanentError BAD_OPTION, OUTPUT_UNWRITABLE."""
    many = len(wanted.videos) > 1
    if wanted.output is not None and (wanted.out is not None or many):
        raise PermanentError(
            ErrorCode.BAD_OPTION, "--output names one file; use --out FOLDER for several videos."
        )
    if wanted.idempotency_key is not None and many:
        raise PermanentError(ErrorCode.BAD_OPTION, "--idempotency-key stands for one video.")
    taken: set[str] = set()
    return [_order(video, wanted, taken) for video in wanted.videos]


def _order(video: str, wanted: Submission, taken: set[str]) -> _Order:
    reference = is_reference(video)
    # An address may hold a secret behind its "?", which is nobody's name for it.
    name = video.partition("?")[0].rstrip("/").rpartition("/")[2] if reference else Path(video).name
    options: JobOptions = {**wanted.options}
    target = wanted.output
    if target is None and wanted.out is not None:
        target = wanted.out / split_name(Path(name).stem, taken=taken)
        taken.add(target.name)
    if target is not None:
        suffix = target.suffix.lower()
        if suffix not in (".mp4", ".mov"):
            raise PermanentError(
                ErrorCode.BAD_OPTION, f"The output {target} must end in .mp4 or .mov."
            )
        options["container"] = "mov" if suffix == ".mov" else "mp4"
        if wanted.out is None:
            check_writable(target, None if reference else Path(video))
    if reference and name:
        options["name"] = name[:NAME_MOST]
    read_spec({"source": "-", **options})  # before hours of sending a video that is then refused
    return _Order(video if reference else Path(video), name or video, target, options)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The output folder {folder} can't be made ({error.strerror}).",
        ) from error


def _say_ended(out: Out, job: Job, target: Path | None, label: str = "") -> None:
    if job.state is JobState.SUCCEEDED:
        rows = [row for row in job_rows(job) if row[0] not in ("video", "state", "submitted")]
        print_rows(out, str(target) if target is not None else job.id, rows)
    else:
        why = job.error.message if job.error is not None else job.state.value
        out.error(f"{plain(label or job.name or job.id)}: {plain(why)}")


def _interrupted(out: Out, error: InterruptedRunError, jobs: Sequence[str]) -> int:
    if jobs:
        ids = " ".join(jobs[:20])
        out.note(f"dualface: Stopped; jobs go on: `dualface wait {ids}` follows them again.")
    else:
        out.note("dualface: Stopped; nothing was submitted.")
    return 128 + error.number


def _present(facts: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in facts.items() if value is not None}
