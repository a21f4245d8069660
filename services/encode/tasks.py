"""The Celery edge of encode."""

from __future__ import annotations

from services.encode.stage import EncodeStage, mux_job
from services.encode.thumbnails import use_one_thread
from shared.messages import BatchMessage, MuxMessage, ReplaceMessage
from shared.processes import keep_freed_memory
from shared.queues import StageWorker
from shared.runtime import Runtime, queue_of
from shared.settings import Settings


def worker(settings: Settings) -> StageWorker:
    """As many children as encoders at a time."""
    made = StageWorker("encode", settings, concurrency=settings.encode_workers)
    made.warm_up(_warm_up)
    stage, queue = EncodeStage(), queue_of("encode", settings.arena)
    made.task("encode.batch", BatchMessage, queue, stage.run)
    made.task("encode.replace", ReplaceMessage, queue, stage.replace)
    made.task("encode.mux", MuxMessage, "mux", mux_job)
    return made


def _warm_up(_: Runtime) -> None:
    keep_freed_memory()
    use_one_thread()
