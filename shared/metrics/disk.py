"""How much room there is where a host's processes write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from shared.metrics.catalogue import DISK_FREE
from shared.metrics.meter import Meter
from shared.settings import Settings

EVERY_S = 5.0


class DiskSampler:
    """Looks every few seconds, when called."""

    def __init__(
        self, meter: Meter, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds, monotonic."""
        self._meter = meter
        self._places = {"state": settings.state_dir, "shm": settings.shm_dir}
        self._clock = clock
        self._sampled_s = clock() - EVERY_S

    def step(self) -> None:
        """Look, if it is time. Blocks as long as the file systems do."""
        if not self._meter.on or self._clock() - self._sampled_s < EVERY_S:
            return
        self._sampled_s = self._clock()
        for place, path in self._places.items():
            try:
                found = os.statvfs(path)
            except OSError:
                continue  # not there (yet)
            if found.f_blocks:
                self._meter.set(DISK_FREE, found.f_bavail / found.f_blocks, place=place)
