"""Which arenas work may be sent to: those whose owner gives signs of life."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.arena.base import ArenaDescriptor
from shared.arena.registry import ArenaRegistry
from shared.logs import Log
from shared.redisdb import Connection

SILENT_S = 30.0
"""Longer than an owner that died takes to be started again: a successor may have its frames."""
BLIND_S = 10.0
"""Nobody was looked at for so long, as Redis was away: nobody's silence means anything."""


class Arenas:
    """Goes by its own clock and by counted signs; a successor begins its watch anew."""

    def __init__(self, connection: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, monotonic."""
        self._registry = ArenaRegistry(connection)
        self._clock = clock
        self._looked_s = clock()
        self._seen: dict[str, tuple[int, float]] = {}
        self._log = Log(stage="coordinator")
        self.silent: frozenset[str] = frozenset()
        """Names of the arenas whose host is gone, as it seems: what lies in them is lost."""

    def look(self) -> list[ArenaDescriptor]:
        """The arenas that are there, by name, without silent ones unless all are. One whose owner
        counts no signs, as it is of an older release, is never silent."""
        arenas, beats = self._registry.all(), self._registry.beats()
        now = self._clock()
        blind = now - self._looked_s > BLIND_S
        self._looked_s = now
        before, self._seen = self._seen, {}
        for arena in arenas:
            if (beat := beats.get(arena.name)) is not None:
                known = before.get(arena.name)
                same = known is not None and known[0] == beat and not blind
                self._seen[arena.name] = known if known and same else (beat, now)
        silent = {name for name, (_, at) in self._seen.items() if now - at >= SILENT_S}
        if len(silent) == len(arenas):
            silent.clear()
        for name in sorted(silent - self.silent):
            self._log.error("the arena's owner is silent, its work goes to others", arena=name)
        self.silent = frozenset(silent)
        return [arena for arena in arenas if arena.name not in silent]
