"""The durable state of all jobs in Redis: what is waiting, running, done, and which attempt."""

from shared.ledger.ledger import Ledger
from shared.ledger.records import (
    STAGES,
    ChunkRecord,
    Event,
    Facts,
    Flight,
    JobResult,
    JobView,
    Losses,
    Page,
    Turn,
)

__all__ = [
    "STAGES",
    "ChunkRecord",
    "Event",
    "Facts",
    "Flight",
    "JobResult",
    "JobView",
    "Ledger",
    "Losses",
    "Page",
    "Turn",
]
