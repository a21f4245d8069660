"""The Celery edge of encode."""

from __future__ import annotations

from services.encode.stage import encode_batch, mux_job, replace_batch
from shared.messages import BatchMessage, MuxMessage, ReplaceMessage
from shared.processes import keep_freed_memory
from shared.queues import StageWorker
from shared.runtime import queue_of
from shared.settings import Settings


def worker(settings: Settings) -> StageWorker:
    """As many children as encoders at a time."""
    made = StageWorker("encode", settings, concurrency=settings.encode_workers)
    made.warm_up(lambda _: keep_freed_memory())
    made.task("encode.batch", BatchMessage, queue_of("encode", settings.arena), encode_batch)
    made.task("encode.replace", ReplaceMessage, queue_of("encode", settings.arena), replace_batch)
    made.task("encode.mux", MuxMessage, "mux", mux_job)
    return made
