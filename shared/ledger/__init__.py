"""The durable state of all jobs in Redis: what is waiting, running, done, and which attempt."""

from shared.ledger.ledger import Ledger
from shared.ledger.records import (
    STAGES,
    ChunkRecord,
    Event,
    Facts,
    Flight,
    HookCall,
    JobResult,
    JobView,
    Losses,
    Neighbours,
    Page,
    Turn,
)

__all__ = [
    "STAGES",
    "ChunkRecord",
    "Event",
    "Facts",
    "Flight",
    "HookCall",
    "JobResult",
    "JobView",
    "Ledger",
    "Losses",
    "Neighbours",
    "Page",
    "Turn",
]
