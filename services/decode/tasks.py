"""The Celery edge of decode."""

from __future__ import annotations

from services.decode.stage import DecodeStage, split_job
from shared.messages import SegmentMessage, SplitMessage
from shared.queues import StageWorker
from shared.runtime import queue_of
from shared.settings import Settings


def worker(settings: Settings) -> StageWorker:
    """One child more than decoders, so that a long source is split while its start is decoded."""
    made = StageWorker("decode", settings, concurrency=settings.max_concurrent_streams + 1)
    made.task("decode.split", SplitMessage, "split", split_job)
    queue = queue_of("decode", settings.arena)
    made.task("decode.segment", SegmentMessage, queue, DecodeStage().run)
    return made
