"""What leases mean, in plain Python and one process: what the real ones are held against."""

from __future__ import annotations

from dataclasses import dataclass, field

CAP_MS, GRACE_MS, CLASS_MS, BACK_MS = 2000, 4000, 5000, 1000


@dataclass
class Held:
    """A unit in somebody's hands. `reserve` until the grant is taken up, then None."""

    holder: str
    token: int
    deadline: int
    reserve: int | None


@dataclass
class Waiter:
    """Somebody in the queue; `rank` in µs."""

    rank: int
    patience: int
    reserve: int


@dataclass
class Model:
    """One thing. Every operation gives the answer that the real one must give."""

    capacity: int | None = None
    clock: int = 0
    token: int = 0
    ticket: int = 0
    units: dict[int, Held] = field(default_factory=dict)
    waiters: dict[str, Waiter] = field(default_factory=dict)
    bells: set[str] = field(default_factory=set)

    def begin(self, clock: int, moved_back_ms: int) -> None:
        """What every call on an open thing starts with."""
        self.clock = clock
        if moved_back_ms > BACK_MS:
            self.bells |= set(self.waiters)
        for unit, held in list(self.units.items()):
            if held.deadline <= clock:
                self._free(unit)
        for name, waiter in list(self.waiters.items()):
            if waiter.patience <= clock:
                self._leave(name)

    def acquire(self, holder: str, ttl: int, wait: int, class_: int, reserve: int) -> list[str]:
        if self.capacity is None:
            return ["closed"]
        if self._unit_of(holder) is None:
            if holder not in self.waiters:
                self.ticket = max(self.ticket + 1, self.clock * 1000)
                self.waiters[holder] = Waiter(self.ticket + class_ * CLASS_MS * 1000, 0, 0)
            self.waiters[holder].patience = self.clock + wait + GRACE_MS
            self.waiters[holder].reserve = reserve
        self._serve(holder)
        unit = self._unit_of(holder)
        if unit is None:
            if wait == 0:
                self._leave(holder)
            return []
        self.units[unit].deadline, self.units[unit].reserve = self.clock + ttl, None
        self.bells.discard(holder)
        return [str(unit), str(self.units[unit].token)]

    def renew(self, holder: str, token: int, ttl: int) -> list[str]:
        unit = self._unit_of(holder)
        ok = unit is not None and self.units[unit].token == token
        if ok and unit is not None:
            self.units[unit].deadline = self.clock + ttl
        self._serve()
        return ["1" if ok else "0"]

    def release(self, holder: str, token: int) -> list[str]:
        unit = self._unit_of(holder)
        ok = unit is not None and self.units[unit].token == token
        if ok and unit is not None:
            self._free(unit)
        self._serve()
        return ["1" if ok else "0"]

    def cancel(self, holder: str) -> list[str]:
        unit = self._unit_of(holder)
        if unit is not None and self.units[unit].reserve is not None:
            self._free(unit)
        self._leave(holder)
        self._serve()
        return ["1"]

    def resize(self, capacity: int) -> list[str]:
        self.capacity = capacity
        self._serve()
        return ["1"]

    def close(self) -> list[str]:
        self.capacity = None
        self.units, self.waiters, self.bells = {}, {}, set()
        return ["1"]

    def look(self) -> list[str]:
        self._serve()
        answer = [str(self.capacity or 0), str(len(self.units)), str(len(self.waiters))]
        for unit, held in sorted(self.units.items(), key=lambda item: (item[1].deadline, item[0])):
            answer += [str(unit), str(held.token), held.holder, str(held.deadline)]
        return answer

    def order(self) -> list[str]:
        """The queue, first to last."""
        return sorted(self.waiters, key=lambda name: (self.waiters[name].rank, name))

    def _unit_of(self, holder: str) -> int | None:
        return next((unit for unit, held in self.units.items() if held.holder == holder), None)

    def _free(self, unit: int) -> None:
        self.bells.discard(self.units.pop(unit).holder)

    def _leave(self, name: str) -> None:
        self.waiters.pop(name, None)
        self.bells.discard(name)

    def _serve(self, asking: str | None = None) -> None:
        for name in self.order():
            waiter = self.waiters[name]
            if self.capacity is None or len(self.units) >= self.capacity - waiter.reserve:
                continue
            unit = next(number for number in range(self.capacity) if number not in self.units)
            self.token += 1
            self.units[unit] = Held(name, self.token, waiter.patience, waiter.reserve)
            del self.waiters[name]
            if name != asking:
                self.bells.add(name)
