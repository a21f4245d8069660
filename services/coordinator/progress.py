"""How long jobs have not got on, for those who watch over the service: the longest of each state.

A job that waits for its turn while others have theirs is in no trouble, however long that takes.
One whose work is out, and of which nothing comes back, is; and so are all when nobody has work out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.jobs import JobState
from shared.ledger import Ledger
from shared.ledger.records import Standing

PAGE, AT_ONCE = 1000, 100


class Progress:
    """Looks at the jobs that were let in, one round trip for each hundred of them: there are few
    (`DUALFACE_JOBS_AHEAD`), however many are queued. Of queued ones the oldest is looked at.

    What it remembers is since when each stands where it does; a successor begins to count anew.
    """

    def __init__(
        self,
        ledger: Ledger,
        blind_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds, monotonic; `wall`: seconds since 1970. Longer than `blind_s` from one
        look to the next Redis was away, which is no job's fault: all begin anew."""
        self._ledger = ledger
        self._blind_s = blind_s
        self._clock = clock
        self._wall = wall
        self._looked_s = clock()
        self._since: dict[str, tuple[Standing, float]] = {}

    def look(self) -> dict[JobState, float]:
        """The longest time for each state, seconds; 0 where nobody waits, or there is no job."""
        standings = self._standings()
        now = self._clock()
        before = self._since if now - self._looked_s <= self._blind_s else {}
        self._looked_s = now
        goes = any(each.state is JobState.RUNNING and not each.waits for each in standings)
        self._since = {}
        longest = {state: 0.0 for state in JobState if not state.ended}
        for each in standings:
            known, since = before.get(each.job, (each, now))
            if each != known or (each.waits and goes):
                since = now
            self._since[each.job] = each, since
            # Let in, its split is sent; it is queued only until somebody takes that up.
            state = JobState.SPLITTING if each.state is JobState.QUEUED else each.state
            longest[state] = max(longest[state], now - since)
        queued_ms = self._ledger.longest_queued_ms()
        if queued_ms is not None:
            longest[JobState.QUEUED] = max(0.0, self._wall() - queued_ms / 1000)
        return longest

    def _standings(self) -> list[Standing]:
        jobs: list[str] = []
        while page := self._ledger.open(len(jobs), PAGE):
            jobs += page
        groups = (jobs[at : at + AT_ONCE] for at in range(0, len(jobs), AT_ONCE))
        return [standing for group in groups for standing in self._ledger.standings(group)]
