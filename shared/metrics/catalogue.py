"""Every metric that is exported: one typed list, with what an operator does about each.

Names follow Prometheus: base units, `_total` for counters. Labels are bounded: what goes beyond a
label's `values` or its `most` is counted as "other". `docs/metrics.md` is made from this list.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from shared.errors import ErrorCode
from shared.jobs import JobState

Kind = Literal["counter", "gauge", "histogram"]

OTHER = "other"
"""What a label says instead of a value too many."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label: all `values` there are, or, where nobody can name them, how many there may be.
    `what`: for people, instead of the values."""

    name: str
    values: tuple[str, ...] = ()
    most: int = 0
    what: str = ""

    @property
    def bound(self) -> int:
        """Most different values it has, `OTHER` included."""
        return (len(self.values) or self.most) + 1


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `help` is exported, so it is short; `advice` is for people: what to do when the
    figure is high. `group` is the heading it stands under. `zero` (of a counter): stages whose
    processes export it as 0 from the start, since a series that appears at 1 has not grown in
    Prometheus's eyes. `cases`: the combinations of labels that occur, where not all do."""

    name: str
    kind: Kind
    unit: str
    group: str
    help: str
    advice: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = field(default=(), repr=False)
    zero: tuple[str, ...] = ()
    cases: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    def zeros(self, stage: str) -> Iterator[dict[str, str]]:
        """The series that a process which does `stage` starts at 0."""
        if stage not in self.zero:
            return
        values = [_own(label, stage) for label in self.labels]
        for case in self.cases or itertools.product(*values):
            yield dict(zip(self.label_names, case, strict=True))

    @property
    def label_names(self) -> tuple[str, ...]:
        """In the order of `labels`."""
        return tuple(label.name for label in self.labels)

    @property
    def series(self) -> int:
        """Most series it can have: one per combination of labels, one per bucket of each."""
        count = 1
        for label in self.labels:
            count *= label.bound
        return count * (len(self.buckets) + 3 if self.kind == "histogram" else 1)


def _own(label: Label, stage: str) -> tuple[str, ...]:
    """The values of a label that a process which does `stage` counts with."""
    if label.name == "stage":
        return (stage,)
    if label.name == "task":
        return tuple(value for value in label.values if value.startswith(f"{stage}."))
    return label.values


STAGES = ("decode", "infer", "compose", "encode")
COORDINATOR = ("coordinator",)
KINDS_OF_LEASES = ("decoded", "composed", "nvdec", "nvenc")
TASKS = (
    "decode.split",
    "decode.segment",
    "infer.batch",
    "compose.batch",
    "encode.batch",
    "encode.replace",
    "encode.mux",
)
OUTCOMES = ("done", "over", "again", "deferred", "spent", "failed")
STORE_OPERATIONS = ("put", "get", "stat", "delete")

_PIPELINE, _RESOURCES = "Pipeline", "Resources"
_JOBS, _QUEUES = "Streams and jobs", "Queues, workers and storage"

_STAGE = Label("stage", STAGES)
_WORKER = Label("stage", (*STAGES, *COORDINATOR))
_PROCESS = Label("stage", (*STAGES, *COORDINATOR, "arena", "api"))
_WATCHING = Label("stage", (*COORDINATOR, "arena", "api"))
_STATE = Label("state", tuple(state.value for state in JobState if not state.ended))
_GPU = Label("gpu", most=64)
_LEASE = Label("kind", KINDS_OF_LEASES)
_ARENA = Label("arena", most=128)
_OPERATION = Label("operation", STORE_OPERATIONS)

_BATCH_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FRAME_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_WAIT_S = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
_TASK_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_STORE_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
_JOB_S = (1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_RATE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0)
_DEPTH = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)
_SHARE = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

# --- pipeline -----------------------------------------------------------------------------------

PIPELINE_BATCH = Metric(
    "dualface_pipeline_batch_seconds", "histogram", "seconds", _PIPELINE,
    "From a batch decoded to its chunk stored.",
    "Look which stage or wait has grown (stage seconds, lease waits, queues); add workers there. "
    "Work done again after a death counts with all its time.",
    buckets=_BATCH_S,
)  # fmt: skip
PIPELINE_FRAME = Metric(
    "dualface_pipeline_frame_seconds", "histogram", "seconds", _PIPELINE,
    "From a batch decoded to its chunk stored, divided by its frames; one observation per batch.",
    "As above. It has the wait behind others, of whom there are as many as slots: with six, 40 "
    "frames/s in all are 0.15 s, and nothing is wrong. Short batches have the same fixed costs for "
    "fewer frames: look at the batch fill.",
    buckets=_FRAME_S,
)  # fmt: skip
STAGE_BATCH = Metric(
    "dualface_stage_batch_seconds", "histogram", "seconds", _PIPELINE,
    "What a stage took for a batch, without waiting for slots and sessions.",
    "The stage with the most seconds per frame limits all: give it workers or a faster engine.",
    (_STAGE,), _BATCH_S,
)  # fmt: skip
STAGE_FRAME = Metric(
    "dualface_stage_frame_seconds", "histogram", "seconds", _PIPELINE,
    "What a stage took for a batch, divided by its frames; one observation per batch.",
    "As above; comparable over batches of different length.",
    (_STAGE,), _FRAME_S,
)  # fmt: skip
FRAMES = Metric(
    "dualface_frames_total", "counter", "frames", _PIPELINE,
    "Frames that a stage is through with; work done twice counts twice.",
    "It should be high. Flat while jobs run: all are stuck; see the queues and the leases.",
    (_STAGE,), zero=STAGES,
)  # fmt: skip
BATCH_FILL = Metric(
    "dualface_batch_fill_ratio", "histogram", "share", _PIPELINE,
    "Frames of a decoded batch, as a share of the most that a batch may have.",
    "Low: sources have short segments, or frames too large for their slots (`DUALFACE_ARENA_MIB`).",
    buckets=_SHARE,
)  # fmt: skip
ENGINE_USES = Metric(
    "dualface_engine_uses_total", "counter", "pieces of work", _PIPELINE,
    "Segments (decode) or batches (other stages) taken up by an engine.",
    "Shows which engine is in use. One that should not be: look at the fall-backs.",
    (_STAGE, Label("engine", most=32)),
)  # fmt: skip
FALLBACKS = Metric(
    "dualface_engine_fallbacks_total", "counter", "pieces of work", _PIPELINE,
    "Work that an engine got since one before it in the order did not do it, as it should have.",
    "`earlier_tries`: it failed or died there before, the worker's log has the error. "
    "`failed`: it broke while at it, likewise. `out_of_memory`: too much shares the device. "
    "`sessions`: others hold the device's sessions. What can't do such work here at all is not "
    "counted: the worker's log says once, which and why. Which engine got it, its uses show.",
    (_STAGE, Label("reason", ("earlier_tries", "failed", "out_of_memory", "sessions"))),
    zero=STAGES,
)  # fmt: skip
COPIED = Metric(
    "dualface_copied_bytes_total", "counter", "bytes", _PIPELINE,
    "Bytes copied between host and device memory; CPU engines copy nothing and count nothing.",
    "Frames should stay on the device from decode to encode: a CPU engine is in the chain.",
    (_STAGE, Label("direction", ("host_to_device", "device_to_host"))),
)  # fmt: skip
PLACE_CHANGES = Metric(
    "dualface_place_changes_total", "counter", "changes", _PIPELINE,
    "Changes of who is in the two tiles; without ground truth nobody knows which were mistakes.",
    "`swapped`: the two changed sides. `replaced`: a tile shows somebody else. `joined`: an empty "
    "tile was taken. `returned`: a missing person was found again. Many per minute of video: "
    "look at a result; `DUALFACE_SWAP_DWELL_FRAMES` and `DUALFACE_DETECT_EVERY` steady it.",
    (Label("kind", ("swapped", "replaced", "joined", "returned")),), zero=("compose",),
)  # fmt: skip
IMPAIRED = Metric(
    "dualface_impaired_frames_total", "counter", "frames", _PIPELINE,
    "Frames that are not in the result as they should be.",
    "`lost`, `concealed`, `repaired` (time): damage in sources. `replaced`: shows the frame "
    "before, as no engine could make it. `unseen`: no faces could be looked for. The jobs' results "
    "say where.",
    (Label("kind", ("lost", "concealed", "repaired", "replaced", "unseen")),), zero=STAGES,
)  # fmt: skip
GIVEN_UP = Metric(
    "dualface_given_up_total", "counter", "pieces of work", _PIPELINE,
    "Segments (decode) or batches (other stages) that failed at every try on every engine.",
    "One source that does it is damaged or hostile. Several: an engine, its driver or its memory.",
    (_STAGE,), zero=STAGES,
)  # fmt: skip

SOURCES_FAILED = Metric(
    "dualface_sources_failed_total", "counter", "sources", _PIPELINE,
    "Sources that failed since no decoder got through several of their segments.",
    "One: keep the file and look at it, it ends decoders. Several at once: a decoder, its driver "
    "or its memory.",
    (), zero=STAGES,
)  # fmt: skip

# --- resources ----------------------------------------------------------------------------------

GPU_UTILIZATION = Metric(
    "dualface_gpu_utilization_ratio", "gauge", "share", _RESOURCES,
    "Share of time in which a kernel ran on the GPU.",
    "High is what it was bought for. For long, with queues growing: add a GPU.",
    (_GPU,),
)  # fmt: skip
GPU_MEMORY_USED = Metric(
    "dualface_gpu_memory_used_bytes", "gauge", "bytes", _RESOURCES,
    "VRAM in use, by whomever.",
    "See the share.",
    (_GPU,),
)  # fmt: skip
GPU_MEMORY_SHARE = Metric(
    "dualface_gpu_memory_budget_ratio", "gauge", "share", _RESOURCES,
    "VRAM in use as a share of the budget (`DUALFACE_GPU_MEMORY_MIB`; without one, of all).",
    "Near 1 engines run out of memory: fewer or smaller slots, fewer workers on that GPU.",
    (_GPU,),
)  # fmt: skip
NVDEC_UTILIZATION = Metric(
    "dualface_gpu_decoder_utilization_ratio", "gauge", "share", _RESOURCES,
    "Share of time in which the GPU's decoders (NVDEC) were busy.",
    "At 1 decoding limits: more decoding by CPU, or another GPU.",
    (_GPU,),
)  # fmt: skip
NVENC_UTILIZATION = Metric(
    "dualface_gpu_encoder_utilization_ratio", "gauge", "share", _RESOURCES,
    "Share of time in which the GPU's encoders (NVENC) were busy.",
    "At 1 encoding limits: more encoding by CPU, or another GPU.",
    (_GPU,),
)  # fmt: skip
DISK_FREE = Metric(
    "dualface_disk_free_ratio", "gauge", "share", _RESOURCES,
    "Free share of the file system of the state folder (with the store in it), of shared memory.",
    "It is low that is bad: shorten `DUALFACE_RETENTION_S`, or give it more space.",
    (Label("place", ("state", "shm")),),
)  # fmt: skip
LEASES_IN_USE = Metric(
    "dualface_leases_in_use", "gauge", "units", _RESOURCES,
    "Slots and sessions that somebody holds.",
    "All in use is normal while jobs run; together with long waits the stage behind is too slow.",
    (_LEASE, _ARENA),
)  # fmt: skip
LEASES_CAPACITY = Metric(
    "dualface_leases_capacity", "gauge", "units", _RESOURCES,
    "Slots and sessions that there are.",
    "More slots need more memory (`DUALFACE_ARENA_MIB`, `DUALFACE_DECODED_SLOTS`).",
    (_LEASE, _ARENA),
)  # fmt: skip
LEASE_WAITERS = Metric(
    "dualface_lease_waiters", "gauge", "waiters", _RESOURCES,
    "Who waits for a slot or a session.",
    "A decoder that waits for a slot is the backpressure that is meant; an encoder that waits for "
    "a session is not.",
    (_LEASE, _ARENA),
)  # fmt: skip
LEASE_WAIT = Metric(
    "dualface_lease_wait_seconds", "histogram", "seconds", _RESOURCES,
    "Time until a slot or session was given, or the wait was given up.",
    "`decoded`: infer or compose are the slowest; `composed`: encode is; `nvenc`: few sessions.",
    (_LEASE,), _WAIT_S,
)  # fmt: skip

# --- streams and jobs -----------------------------------------------------------------------------

JOBS = Metric(
    "dualface_jobs", "gauge", "jobs", _JOBS,
    "Jobs that have not ended, by state.",
    "Many `queued`: more comes in than is done; add workers. `muxing` for long: a slow disk.",
    (_STATE,),
)  # fmt: skip
JOB_IDLE = Metric(
    "dualface_job_idle_seconds", "gauge", "seconds", _JOBS,
    "Longest time for which one of the jobs in a state has not got on.",
    "`running`: no chunk more, although work of it is out, or nobody has work out; see which stage "
    "it waits at (`GET /v1/jobs`, the queues, the leases). `splitting`: fetching a large source "
    "takes its time. `muxing`: the store, or a slow disk. `queued`: the longest wait for a turn.",
    (_STATE,),
)  # fmt: skip
JOBS_ENDED = Metric(
    "dualface_jobs_ended_total", "counter", "jobs", _JOBS,
    "Jobs that ended, by state and error code (`ok` without an error).",
    "One code for many jobs is ours (`stage_failed`, `no_space`, `internal`); codes about sources "
    "are theirs.",
    (Label("state", tuple(state.value for state in JobState if state.ended)),
     Label("code", ("ok", *(code.value for code in ErrorCode)), what="of `shared/errors.py`")),
    zero=COORDINATOR,
    cases=((JobState.SUCCEEDED.value, "ok"),
           (JobState.CANCELLED.value, ErrorCode.CANCELLED.value),
           *((JobState.FAILED.value, code.value)
             for code in ErrorCode if code is not ErrorCode.CANCELLED)),
)  # fmt: skip
WEBHOOKS = Metric(
    "dualface_webhook_calls_total", "counter", "calls", _JOBS,
    "Calls of webhooks, by what came of them.",
    "`failed` ones are repeated for three hours; `given_up` receivers never learnt of their job: "
    "the coordinator's log has their addresses.",
    (Label("outcome", ("delivered", "failed", "given_up")),), zero=COORDINATOR,
)  # fmt: skip
JOB_SECONDS = Metric(
    "dualface_job_seconds", "histogram", "seconds", _JOBS,
    "From a job's submission to its success, waiting included.",
    "Compare with the jobs queued: waiting or working?",
    buckets=_JOB_S,
)  # fmt: skip
JOB_RATE = Metric(
    "dualface_job_frames_per_second", "histogram", "frames per second", _JOBS,
    "Frames of a result by the seconds from when its first segment was taken up to its success.",
    "It is low that is bad: see the stage seconds, and how many jobs share the workers.",
    buckets=_RATE,
)  # fmt: skip

# --- queues, workers and storage ------------------------------------------------------------------

QUEUE_MESSAGES = Metric(
    "dualface_queue_messages", "gauge", "messages", _QUEUES,
    "Messages that wait in a queue; those of infer, compose and encode are batches.",
    "Batches are bounded by slots: more than 20 in one queue mean that its workers do not consume.",
    (Label("queue", most=512),),
)  # fmt: skip
QUEUE_SAMPLES = Metric(
    "dualface_queue_sampled_messages", "histogram", "messages", _QUEUES,
    "The same, sampled every few seconds, over all queues of a kind: for percentiles.",
    "As above.",
    (Label("queue", (*STAGES, "split", "mux")),), _DEPTH,
)  # fmt: skip
UNACKNOWLEDGED = Metric(
    "dualface_unacknowledged_messages", "gauge", "messages", _QUEUES,
    "Messages with a worker, not through yet.",
    "More than there are worker processes: dead workers' messages, which run out after four hours; "
    "their work has long been done by others.",
)  # fmt: skip
WORKERS = Metric(
    "dualface_workers", "gauge", "processes", _QUEUES,
    "Processes that gave a sign of life lately.",
    "It is 0 that is bad: see the log of that stage's worker.",
    (_WORKER,),
)  # fmt: skip
TASKS_DONE = Metric(
    "dualface_tasks_total", "counter", "tasks", _QUEUES,
    "Tasks by how they ended.",
    "`again`: failed and sent again; `spent`: failed too often; `failed`: ended its job; "
    "`deferred`: what it needs is in use; `over`: its job had ended. The log has each.",
    (Label("task", TASKS), Label("outcome", OUTCOMES)), zero=STAGES,
)  # fmt: skip
TASK_SECONDS = Metric(
    "dualface_task_seconds", "histogram", "seconds", _QUEUES,
    "A task from start to end, waiting for slots included.",
    "Long `decode.split`: large sources, or slow fetching. Long `encode.mux`: a slow disk.",
    (Label("task", TASKS),), _TASK_S,
)  # fmt: skip
REDONE = Metric(
    "dualface_redone_total", "counter", "pieces of work", _QUEUES,
    "Work that the coordinator had done again.",
    "`worker_lost`: workers die or freeze, see their logs and the kernel's (out of memory). "
    "`unclaimed`: nobody took a message up in time. `slot_lost`: an arena was replaced. `release`: "
    "its workers were replaced by another release's.",
    (Label("kind", ("split", "segment", "batch", "replace", "mux")),
     Label("reason", ("worker_lost", "unclaimed", "slot_lost", "release"))),
    zero=COORDINATOR,
)  # fmt: skip
REFUSED = Metric(
    "dualface_refused_messages_total", "counter", "messages", _QUEUES,
    "Messages that a worker did not take.",
    "`version`: another release's, put back for its workers; passes when the roll-out is through. "
    "`unreadable`: a dead letter now.",
    (Label("reason", ("version", "unreadable")),), zero=STAGES,
)  # fmt: skip
DEAD_LETTERS = Metric(
    "dualface_dead_letters", "gauge", "messages", _QUEUES,
    "Messages that nobody could read, kept for a person.",
    "`dualface dead list` tells why; requeue or drop them.",
)  # fmt: skip
REDIS_ERRORS = Metric(
    "dualface_redis_errors_total", "counter", "errors", _QUEUES,
    "Calls to Redis that failed after their own repeats.",
    "Redis is away, or its disk is full. Work goes on by itself when it is back.",
    (_PROCESS,), zero=_PROCESS.values,
)  # fmt: skip
REDIS_SILENT = Metric(
    "dualface_redis_silent_seconds", "gauge", "seconds", _QUEUES,
    "Seconds since Redis answered last; 0 while it does. Told by those that never fork.",
    "It is refused, it hangs, its disk is full, or the network is gone: see its log. Work goes on "
    "by itself when it is back.",
    (_WATCHING,),
)  # fmt: skip
STORE_SECONDS = Metric(
    "dualface_store_operation_seconds", "histogram", "seconds", _QUEUES,
    "Operations of the object store.",
    "Slow `put` and `get` hold up encode and decode: look at the disk, the server, the network.",
    (_OPERATION,), _STORE_S,
)  # fmt: skip
STORE_ERRORS = Metric(
    "dualface_store_errors_total", "counter", "errors", _QUEUES,
    "Operations of the object store that failed; an object that is not there is no failure.",
    "The disk is full, or the server is away or refuses us: the log has its words.",
    (_OPERATION,), zero=(*STAGES, *COORDINATOR, "api"),
)  # fmt: skip

METRICS: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""All of them, in the order above."""
