"""One OpenTelemetry trace per job, through all stages; off unless settings name a collector.

Nothing of it travels: the ids of a job's trace and of its root span follow from the job's id, so
that any process adds its spans to the right trace without having heard of another's. A process that
dies takes with it what it had not sent, and nothing else; work that is repeated is one more span.
Stage workers make a span of every message they work on, the coordinator the root, at the job's end.

Only this module imports OpenTelemetry, and only when tracing is on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from shared.errors import (
    DeferredError,
    DualfaceError,
    ErrorCode,
    PermanentError,
    SpentError,
    StoreRefusedError,
    WorkOverError,
)
from shared.jobs import JobState
from shared.ledger import STAGES, JobView, Ledger
from shared.logs import Log
from shared.messages import BatchMessage, Message, ReplaceMessage, SegmentMessage
from shared.metrics import Meter, kind_of
from shared.runtime import Runtime
from shared.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.id_generator import IdGenerator

SEND_EVERY_S = 1.0
SEND_PATIENCE_S = 5.0
"""Until a batch of spans that the collector does not take is dropped."""
CLOSE_PATIENCE_S = 2.0
"""For the last spans of a process that ends; well below `drain_s`."""
WAITING_SPANS = 2048
"""At most, some 4 KiB each; then the oldest are dropped."""
SENT_AT_ONCE = 256
WARN_EVERY_S = 60.0
SHORT_WAIT_S = 0.001
"""Leases that were free take less; they are no events."""

REMEMBERED_JOBS = 1000
"""Ended ones that were told of and not cleaned up yet; a few, as a rule."""

Facts: TypeAlias = dict[str, str | int | float]
Happening: TypeAlias = tuple[int, str, Facts]
"""When (ns since 1970), what, and its facts."""


class TraceIds(NamedTuple):
    """Of a job: 16 bytes of its trace, 8 of its root span."""

    trace: int
    root: int

    @property
    def hex(self) -> str:
        """The trace's, as collectors show it."""
        return f"{self.trace:032x}"


def ids_of(job: str) -> TraceIds:
    """The same in every process and at every time."""
    digest = hashlib.sha256(job.encode()).digest()
    return TraceIds(int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big"))


def is_sampled(ids: TraceIds, share: float) -> bool:
    """Whether the job is one of the `share` (0 to 1) that are traced: by the lower half of the
    trace's id, as OpenTelemetry's TraceIdRatioBased does."""
    return (ids.trace & (1 << 64) - 1) < round(share * (1 << 64))


def place_of(message: Message) -> dict[str, int]:
    """Which segment and batch of its job a message is about, as far as it is about one."""
    if isinstance(message, BatchMessage | ReplaceMessage):
        return {"segment": message.segment, "batch": message.batch}
    if isinstance(message, SegmentMessage):
        return {"segment": message.segment.index}
    return {}


class Traces:
    """Makes spans for one process and its forks, whose threads begin with their first span. Off
    without an endpoint: then every call returns at once. Spans are made by one thread at a time.

    Never blocks but in `close`, never raises, whatever the collector does.
    """

    def __init__(
        self, stage: str = "", endpoint: str = "", share: float = 1.0, arena: str = ""
    ) -> None:
        """`endpoint`: of OTLP over HTTP, `http://HOST:PORT`, with or without `/v1/traces`."""
        self._stage = stage
        self._share = share
        self._endpoint = endpoint
        self._arena = arena
        self._ids = _Ids()
        self._provider: TracerProvider | None = None
        self._work: _Work | None = None
        self._told: dict[str, None] = {}

    @property
    def on(self) -> bool:
        """Whether there is a collector."""
        return bool(self._endpoint)

    def id_of(self, job: str) -> str:
        """The id of the job's trace, for logs; "" when it has none."""
        if not self.on or not is_sampled(ids_of(job), self._share):
            return ""
        return ids_of(job).hex

    @contextmanager
    def work(self, task: str, message: Message) -> Iterator[None]:
        """Around the work on a message; what it raises passes through and is the span's outcome."""
        if not self.id_of(message.job):
            yield
            return
        self._work = work = _Work()
        outcome, code, failed = "broken off", "", True
        try:
            yield
            outcome, failed = "done", False
        except Exception as error:
            outcome, code, failed = _judged(error)
            raise
        finally:
            self._work = None
            self._export(task, message, work, outcome, code, failed)

    def tried(self, count: int) -> None:
        """Which try the work is, from 1; 0: a late or double message, nothing to do."""
        if self._work is not None:
            self._work.facts["try"] = count

    def spent(self) -> None:
        """It was tried too often: the stage itself may know what to do then."""
        if self._work is not None:
            self._work.facts["outcome"] = "given up"

    def served(self, engine: str) -> None:
        """Which engine does the work; the last one, if one after the other tries."""
        if self._work is not None:
            self._work.facts["engine"] = engine

    def waited(self, thing: str, seconds: float) -> None:
        """The work waited so long for a slot or session of `thing`, until now."""
        if self._work is not None and seconds >= SHORT_WAIT_S:
            self._work.waits.append((self._work.now_ns(), kind_of(thing), seconds))

    def job_ended(self, view: JobView) -> None:
        """The root of the job's trace; once, however often this is called until `job_cleaned`."""
        if view.job in self._told or not view.state.ended or not self.id_of(view.job):
            return
        self._told[view.job] = None
        if len(self._told) > REMEMBERED_JOBS:
            del self._told[next(iter(self._told))]
        frames = view.result.frames if view.result else view.done[STAGES.index("encode")]
        facts: Facts = {
            "job": view.job,
            "name": view.name,
            "state": view.state.value,
            "code": view.code,
            "frames": frames,
            "owner": view.owner,
        }
        started: list[Happening] = []
        if view.started_ms is not None:
            started.append((view.started_ms * 10**6, "started", {}))
        ids = ids_of(view.job)
        self._send(
            Made(
                "job",
                ids,
                ids.root,
                view.submitted_ms * 10**6,
                (view.ended_ms or view.submitted_ms) * 10**6,
                {name: value for name, value in facts.items() if value != ""},
                started,
                failed=view.state is JobState.FAILED,
            )
        )

    def job_cleaned(self, job: str) -> None:
        """The job has left the list of the ended, and is not told of again."""
        self._told.pop(job, None)

    def close(self) -> None:
        """Send what waits; blocks for CLOSE_PATIENCE_S at most. The next span begins anew."""
        provider, self._provider = self._provider, None
        if provider is None:
            return
        # The SDK's own patience is half a minute. A daemon: the process may end without it.
        closing = threading.Thread(target=provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(CLOSE_PATIENCE_S)

    def _export(
        self, task: str, message: Message, work: _Work, outcome: str, code: str, failed: bool
    ) -> None:
        facts: Facts = {"job": message.job, "stage": self._stage}
        facts |= {"arena": self._arena, "outcome": outcome, **place_of(message), **work.facts}
        if isinstance(message, BatchMessage | ReplaceMessage):
            facts["frames"] = len(message.pts)
        elif isinstance(message, SegmentMessage):
            facts["frames"] = message.segment.frames
        if code:
            facts["code"] = code
        ids = ids_of(message.job)
        waits: list[Happening] = [
            (at_ns, "waited", {"kind": kind, "seconds": round(seconds, 6)})
            for at_ns, kind, seconds in work.waits
        ]
        own = int.from_bytes(os.urandom(8), "big")
        self._send(Made(task, ids, own, work.start_ns, work.now_ns(), facts, waits, failed))

    def _send(self, made: Made) -> None:
        from opentelemetry import trace  # lazily, as all below

        if self._provider is None:
            self._provider = _make_provider(self._endpoint, self._stage, self._ids)
        self._ids.trace, self._ids.span = made.ids.trace, made.span
        context = None
        if made.span != made.ids.root:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            root = trace.SpanContext(
                made.ids.trace, made.ids.root, is_remote=True, trace_flags=flags
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(root))
        span = self._provider.get_tracer("dualface").start_span(
            made.name,
            context,
            attributes={f"dualface.{name}": value for name, value in made.facts.items()},
            start_time=made.start_ns,
        )
        for at_ns, name, facts in made.events:
            told = {f"dualface.{key}": value for key, value in facts.items()}
            span.add_event(name, told, timestamp=at_ns)
        if made.failed:
            span.set_status(trace.StatusCode.ERROR)
        span.end(end_time=made.end_ns)


def open_traces(settings: Settings, stage: str) -> Traces:
    """The traces of a process that does `stage`; once per process, before it forks. Off where
    settings name no collector, or OpenTelemetry is not installed."""
    if not settings.traces_endpoint:
        return Traces(stage)
    try:
        # Now, so that forks share it: 40 ms of CPU and 3 MiB.
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError as error:
        reason = f"{error}; install dualface[traces]."
        Log(stage=stage).warning("traces are off", reason=reason)
        return Traces(stage)
    # It speaks at every try; see `_Careful`.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    arena = "" if stage == "coordinator" else settings.arena
    return Traces(stage, settings.traces_endpoint, settings.traces_share, arena)


def watched(runtime: Runtime, traces: Traces) -> Runtime:
    """The same runtime, whose ledger tells `traces` of tries and engines."""
    if not traces.on:
        return runtime
    settings = runtime.settings
    ledger = _NotingLedger(runtime.redis, settings.retention_s, settings.attempts)
    ledger.traces = traces
    return replace(runtime, ledger=ledger)


def watched_meter(meter: Meter, traces: Traces) -> Meter:
    """The same meter, that tells `traces` of waits."""
    return _NotingMeter(meter, traces) if traces.on else meter


def _judged(error: Exception) -> tuple[str, str, bool]:
    """Outcome and error code of work that raised `error`, and whether it is a failure: being put
    off is none."""
    code = error.code if isinstance(error, DualfaceError) else ErrorCode.STAGE_FAILED
    if isinstance(error, WorkOverError):
        return "put down", code.value, False
    if isinstance(error, SpentError):
        return "given up", code.value, True
    if isinstance(error, PermanentError) and not isinstance(error, StoreRefusedError):
        return "failed", code.value, True
    return "repeated", code.value, not isinstance(error, DeferredError)


@dataclass
class _Work:
    """What is known of a piece of work so far. Wall-clock times, ns since 1970, are the start's
    plus what has passed by the monotonic clock."""

    start_ns: int = field(default_factory=time.time_ns)
    since_ns: int = field(default_factory=time.monotonic_ns)
    facts: Facts = field(default_factory=dict)
    waits: list[tuple[int, str, float]] = field(default_factory=list)

    def now_ns(self) -> int:
        return self.start_ns + time.monotonic_ns() - self.since_ns


@dataclass(frozen=True)
class Made:
    """A span that is over. Times in ns since 1970; events are (time, name, facts)."""

    name: str
    ids: TraceIds
    span: int
    start_ns: int
    end_ns: int
    facts: Facts
    events: Sequence[Happening] = ()
    failed: bool = False


class _NotingLedger(Ledger):
    traces: Traces

    def take(self, job: str, item: str, worker: str) -> int:
        return self._noted(lambda: super(_NotingLedger, self).take(job, item, worker))

    def enter(self, message: BatchMessage, stage: str, worker: str) -> int:
        return self._noted(lambda: super(_NotingLedger, self).enter(message, stage, worker))

    def note_engine(self, job: str, stage: str, engine: str) -> None:
        super().note_engine(job, stage, engine)
        self.traces.served(engine)

    def _noted(self, take_up: Callable[[], int]) -> int:
        try:
            tries = take_up()
        except SpentError:
            self.traces.spent()
            raise
        self.traces.tried(tries)
        return tries


class _NotingMeter(Meter):
    def __init__(self, meter: Meter, traces: Traces) -> None:
        super().__init__(meter.stage, meter._book)
        self._traces = traces

    def waited(self, thing: str, seconds: float) -> None:
        super().waited(thing, seconds)
        self._traces.waited(thing, seconds)


class _Ids:
    """Gives the SDK the ids that were decided already (an `IdGenerator`)."""

    trace = span = 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span

    def is_trace_id_random(self) -> bool:
        return False


class _Careful:
    """A `SpanExporter` that says once a minute, not at every try, that spans can't be sent."""

    def __init__(self, exporter: SpanExporter, log: Log) -> None:
        self._exporter = exporter
        self._log = log
        self._lost = 0
        self._next_warning_s = 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result.name != "SUCCESS":
            self._lost += len(spans)
            now = time.monotonic()
            if now >= self._next_warning_s:
                self._next_warning_s = now + WARN_EVERY_S
                # Not the endpoint: it may hold a password.
                self._log.warning("the collector takes no traces", spans_lost=self._lost)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _make_provider(endpoint: str, stage: str, ids: _Ids) -> TracerProvider:
    """With a thread of its own, so never before a fork."""
    from importlib.metadata import version

    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    url = endpoint.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
    facts: Facts = {
        "service.name": f"dualface-{stage}",
        "service.version": version("dualface"),
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    careful = _Careful(OTLPSpanExporter(endpoint=url, timeout=SEND_PATIENCE_S), Log(stage=stage))
    provider = TracerProvider(
        ALWAYS_ON,
        Resource.create({**facts}),
        shutdown_on_exit=False,
        id_generator=cast("IdGenerator", ids),
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            cast("SpanExporter", careful),
            max_queue_size=WAITING_SPANS,
            schedule_delay_millis=SEND_EVERY_S * 1000,
            max_export_batch_size=SENT_AT_ONCE,
        )
    )
    return provider
