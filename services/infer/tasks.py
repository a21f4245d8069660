"""The Celery edge of infer."""

from __future__ import annotations

from services.infer.stage import InferStage
from shared.messages import BatchMessage
from shared.queues import StageWorker
from shared.runtime import queue_of
from shared.settings import Settings


def worker(settings: Settings) -> StageWorker:
    """One child: it keeps its models loaded."""
    made = StageWorker("infer", settings, concurrency=1)
    stage = InferStage()
    made.warm_up(stage.warm_up)
    made.task("infer.batch", BatchMessage, queue_of("infer", settings.arena), stage.run)
    return made
