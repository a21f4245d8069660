"""The durable state of all jobs, in one Redis."""

from __future__ import annotations

from shared.ledger.agenda import Agenda
from shared.ledger.batches import Batches
from shared.ledger.jobs import Jobs
from shared.ledger.segments import Segments
from shared.ledger.views import Views


class Ledger(Jobs, Segments, Batches, Agenda, Views):
    """The ledger of one Redis, typed: its parts by what they are about, over the script in `lua/`.

    `now` is only written down for people; deadlines are Redis's.
    """
