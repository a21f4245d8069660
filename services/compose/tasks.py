"""The Celery edge of compose."""

from __future__ import annotations

from services.compose.stage import ComposeStage
from shared.messages import BatchMessage
from shared.queues import StageWorker
from shared.runtime import queue_of
from shared.settings import Settings


def worker(settings: Settings) -> StageWorker:
    """One child: compose is short, and tracking goes one batch at a time anyway."""
    made = StageWorker("compose", settings, concurrency=1)
    stage = ComposeStage()
    made.warm_up(stage.warm_up)
    made.task(
        "compose.batch", BatchMessage, queue_of("compose", settings.arena), ComposeStage().run
    )
    return made
