"""The queue side of every process: the Celery app, what sends messages, the worker of a stage.

The only importer of Celery. Messages are JSON, acknowledged late.
"""

from shared.queues.app import App, CeleryOutbox, TaskResults, failure, make_app
from shared.queues.dead import DeadLetter, DeadLetters
from shared.queues.events import TaskEvents
from shared.queues.requests import CANCEL, SUBMIT, RequestConsumer
from shared.queues.worker import StageWorker

__all__ = [
    "CANCEL",
    "SUBMIT",
    "App",
    "CeleryOutbox",
    "DeadLetter",
    "DeadLetters",
    "RequestConsumer",
    "StageWorker",
    "TaskEvents",
    "TaskResults",
    "failure",
    "make_app",
]
