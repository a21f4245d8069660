"""Random histories of calls: the real leases answer and end up as the model says."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from shared.leases import PARTS, Leases
from shared.redisdb import Connection
from tests.leases.clock import jump
from tests.leases.model import CAP_MS, CLASS_MS, Model

THING = "thing"
PREFIX = f"df:lease:{THING}:"
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f"])
STEPS = (
    *(["acquire"] * 12 + ["release"] * 5 + ["renew"] * 4 + ["cancel"] * 2),
    *(["time passes"] * 2 + ["answer is lost"] * 3 + ["clock jumps", "bell is lost"]),
    *("resize", "look", "close"),
)
State = dict[str, Any]
HOUR_S = 3600


class Histories(RuleBasedStateMachine):
    """Calls in any order, each also as the repeat of one whose answer was lost."""

    redis: Connection  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.leases = Leases(self.redis, ttl_s=1)
        self.model = Model()
        self.past: list[tuple[str, int]] = [("a", 1)]
        self.arrived: dict[str, int] = {}
        self.last: tuple[str, tuple[str | int, ...]] = ("look", ())
        self.state: State = self.read()

    @initialize(capacity=st.integers(1, 2))
    def opened(self, capacity: int) -> None:
        self.call("resize", capacity)

    @rule(
        what=st.sampled_from(STEPS),
        holder=NAMES,
        ttl=st.sampled_from([500, 3000, 9000, 9000]),
        wait=st.sampled_from([0, 1000, 1000, 1000]),
        class_=st.sampled_from([0, 4, 4, 5]),
        reserve=st.sampled_from([0, 0, 0, 1]),
        which=st.integers(0, 5),
        ms=st.sampled_from([10, 900, CAP_MS, CAP_MS + 500]),
    )
    def step(
        self,
        what: str,
        holder: str,
        ttl: int,
        wait: int,
        class_: int,
        reserve: int,
        which: int,
        ms: int,
    ) -> None:
        """One rule for all, since rules of their own are left out of many histories."""
        if what == "time passes":
            for _ in range(1 + which):
                jump(self.redis, THING, ms / 1000)
                self.call("look")
        elif what == "clock jumps":
            jump(self.redis, THING, HOUR_S if which % 2 else -HOUR_S)
        elif what == "bell is lost":
            self.redis.delete(f"{PREFIX}bell:{holder}")
            self.model.bells.discard(holder)
        elif what == "answer is lost":
            self.repeat()
        else:
            self.somebody_calls(what, holder, ttl, wait, class_, reserve, which)

    def somebody_calls(
        self,
        operation: str,
        holder: str,
        ttl: int,
        wait: int,
        class_: int,
        reserve: int,
        which: int,
    ) -> None:
        lease = self.known(which)
        arguments: dict[str, tuple[str | int, ...]] = {
            "acquire": (holder, ttl, wait, class_, reserve),
            "renew": (*lease, ttl),
            "release": lease,
            "cancel": (self.untaken(holder),),
            "resize": (max(0, which - 2),),
            "close": (),
            "look": (),
        }
        self.call(operation, *arguments[operation])
        if operation == "close":
            self.call("acquire", *arguments["acquire"])
            self.call("resize", 2)

    def untaken(self, otherwise: str) -> str:
        """Somebody who was granted what he has not taken up."""
        return next(
            (h.holder for h in self.model.units.values() if h.reserve is not None), otherwise
        )

    def known(self, which: int) -> tuple[str, int]:
        """A lease that somebody has or, in two of six cases, may have had."""
        living = [(h.holder, h.token) for h in self.model.units.values() if h.reserve is None]
        among = self.past if which >= 4 or not living else living
        return among[-1 - which % len(among)]

    def repeat(self) -> None:
        """The client repeats its call."""
        operation, args = self.last
        before = self.read()
        self.call(operation, *args)
        deadlines = [*before["held"].values(), *before["patience"].values()]
        if operation in {"release", "cancel", "resize"} and all(
            deadline > self.model.clock for deadline in deadlines
        ):
            assert all(before[part] == self.state[part] for part in PARTS[1:])

    def call(self, operation: str, *args: str | int) -> list[str]:
        """One call on both, and everything that must hold after it."""
        self.last = (operation, args)
        before = self.read()
        answer = self.leases._call(THING, operation, *args)
        after = self.state = self.read()
        if self.model.capacity is not None or operation == "resize":
            seen, now = int(after["meta"]["wall"]), int(after["meta"]["clock"])
            assert before["time"] <= seen <= after["time"]
            wall = int(before["meta"].get("wall", seen))
            clock = int(before["meta"].get("clock", seen))
            assert now == clock + min(max(seen - wall, 0), CAP_MS)
            self.model.begin(now, moved_back_ms=wall - seen)
        assert answer == getattr(self.model, operation)(*args)
        if operation == "acquire" and len(answer) == 2:
            self.past = [*self.past[-5:], (str(args[0]), int(answer[1]))]
        self.like_the_model(after)
        self.sound(before, after)
        return answer

    def like_the_model(self, state: State) -> None:
        model = self.model
        units = {str(unit): held for unit, held in model.units.items()}
        assert state["held"] == {unit: held.deadline for unit, held in units.items()}
        assert state["holders"] == {u: f"{held.token} {held.holder}" for u, held in units.items()}
        assert state["units"] == {held.holder: unit for unit, held in units.items()}
        assert list(state["ranks"]) == model.order()
        assert state["ranks"] == {name: w.rank for name, w in model.waiters.items()}
        assert state["patience"] == {name: w.patience for name, w in model.waiters.items()}
        assert state["reserves"] == {
            **{name: str(waiter.reserve) for name, waiter in model.waiters.items()},
            **{h.holder: str(h.reserve) for h in units.values() if h.reserve is not None},
        }
        assert state["bells"] == model.bells

    def sound(self, before: State, state: State) -> None:
        """Facts that don't need the model's word for who gets what."""
        old, new = before["holders"], state["holders"]
        capacity = int(state["meta"].get("capacity", 0))
        given = {unit for unit in new if new[unit] != old.get(unit)}
        # The limit holds for every grant; who held before a resize is not robbed.
        assert not given or (len(new) <= capacity and all(int(unit) < capacity for unit in given))
        # Tokens grow with every grant.
        tokens = {unit: int(entry.split()[0]) for unit, entry in new.items()}
        newest = max((int(entry.split()[0]) for entry in old.values()), default=0)
        assert all(tokens[unit] > newest for unit in given)
        # No unit stays free that somebody who waits may have.
        assert not any(
            len(new) < capacity - int(state["reserves"][waiter]) for waiter in state["ranks"]
        )
        # Whoever has something to take up or waits is known, nobody else.
        assert state["bells"] <= set(state["reserves"])
        self.in_order(state["ranks"])

    def in_order(self, ranks: dict[str, int]) -> None:
        """First come, first served; a class counts as CLASS_MS of waiting."""
        operation, args = self.last
        for name in ranks.keys() - self.arrived.keys():
            assert (operation, args[0]) == ("acquire", name)
            self.arrived[name] = self.model.clock + int(args[3]) * CLASS_MS
        self.arrived = {name: at for name, at in self.arrived.items() if name in ranks}
        assert [self.arrived[name] for name in ranks] == sorted(self.arrived.values())

    def read(self) -> State:
        """Everything in Redis about the thing, zsets in order, and the server's time in ms."""
        with self.redis.pipeline() as pipe:
            for part in ("held", "ranks", "patience"):
                pipe.zrange(PREFIX + part, 0, -1, withscores=True)
            for part in ("meta", "holders", "units", "reserves"):
                pipe.hgetall(PREFIX + part)
            pipe.keys("*")
            pipe.time()
            held, ranks, patience, meta, holders, units, reserves, keys, time = pipe.execute()
        bell = f"{PREFIX}bell:"
        assert {key for key in keys if not key.startswith(bell)} <= {PREFIX + p for p in PARTS}
        return {
            "held": {unit: int(deadline) for unit, deadline in held},
            "ranks": {waiter: int(rank) for waiter, rank in ranks},
            "patience": {waiter: int(deadline) for waiter, deadline in patience},
            "meta": meta,
            "holders": holders,
            "units": units,
            "reserves": reserves,
            "bells": {key.removeprefix(bell) for key in keys if key.startswith(bell)},
            "time": int(time[0]) * 1000 + int(time[1]) // 1000,
        }


def test_the_leases_do_what_the_model_says(redis: Connection) -> None:
    class Bound(Histories):
        pass

    Bound.redis = redis
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            # Nothing is made smaller: a failure is told soon, also on a busy machine.
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
