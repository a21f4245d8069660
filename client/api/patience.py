"""How often something is tried again, and how long to wait before that: pure, but for the dice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from client.api.errors import ApiError, BusyError, OverQuotaError, UnreachableError


@dataclass(frozen=True)
class Patience:
    """Waits grow from `base_s` by twice up to `cap_s`, each shortened by up to a half at random, so
    that many clients of one service that was away don't come back as one.

    `tries` in all, which take most of a minute: so long may a container of the service take to be
    replaced. `first` as long as the service has never answered: a wrong address shows soon.
    A wait that the service asks for (Retry-After) is kept as asked, up to `asked_cap_s`; for longer
    ones the error is raised instead.
    """

    tries: int = 12
    first: int = 3
    base_s: float = 0.25
    cap_s: float = 10.0
    asked_cap_s: float = 60.0
    dice: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def wait_s(self, error: ApiError, tried: int, *, heard: bool) -> float | None:
        """Seconds until the next try after `tried` tries, None when there is to be none.

        `heard`: the service has answered before.
        """
        passes = isinstance(error, UnreachableError | BusyError)
        if not passes or isinstance(error, OverQuotaError):
            return None
        if tried >= (self.tries if heard else min(self.first, self.tries)):
            return None
        asked = error.retry_after or 0.0
        if asked > self.asked_cap_s:
            return None
        grown = min(self.cap_s, self.base_s * 2.0 ** (tried - 1))
        return asked + grown * self.dice.uniform(0.5, 1.0)
