"""The durable state of all jobs in Redis: what is waiting, running, done, and which attempt."""

from shared.ledger.ledger import Ledger
from shared.ledger.records import (
    STAGES,
    ChunkRecord,
    Facts,
    Flight,
    JobResult,
    JobView,
    Losses,
    Turn,
)

__all__ = [
    "STAGES",
    "ChunkRecord",
    "Facts",
    "Flight",
    "JobResult",
    "JobView",
    "Ledger",
    "Losses",
    "Turn",
]
