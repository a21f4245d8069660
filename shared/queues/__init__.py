"""The queue side of every process: the Celery app, what sends messages, the worker of a stage.

The only importer of Celery. Messages are JSON, acknowledged late.
"""

from shared.queues.app import CeleryOutbox, TaskResults, make_app
from shared.queues.dead import DeadLetter, DeadLetters
from shared.queues.worker import StageWorker

__all__ = ["CeleryOutbox", "DeadLetter", "DeadLetters", "StageWorker", "TaskResults", "make_app"]
