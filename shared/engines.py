"""Going down the chain of a stage's engines until one does a piece of work.

The first is the best. One that can't do it, or breaks while at it, is out of the chain for this
piece of work only, and the next one does it anew: what a user gets is slower, not broken. An engine
that ends its process is passed over by the number of tries instead (`from_due`).

What can't do a piece of work at all (it is not installed, the hardware lacks it, no session of it
is allowed) is no failure: it is said once and not counted. An engine that should have done it, and
did not, is counted and said each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.cuda.memory import Memory
from shared.errors import DeviceLostError, DualfaceError, EngineBusyError, EngineError
from shared.errors import OutOfMemoryError as DeviceFullError
from shared.giving_up import engine_of
from shared.logs import Log
from shared.runtime import Runtime
from shared.sessions import SessionNeed

E = TypeVar("E")
T = TypeVar("T")

MOST_TOLD = 256
"""Reasons that a process remembers having said; beyond them it begins anew."""

Check = Callable[[], None]
"""Called now and then while an engine works: raises once its session's lease is lost."""


def from_due(chain: Sequence[E], tries: int, attempts: int) -> tuple[Sequence[E], str]:
    """The engines of `chain` whose turn has come at the `tries`-th of `attempts` tries, and why
    these are not all, "" if they are."""
    start = chain.index(engine_of(chain, tries, attempts))
    return chain[start:], "earlier_tries" if start else ""


class Chains(Generic[E]):
    """The engines of one process, best first, for each kind of memory that frames may lie in; kept,
    and with them what they keep open between two pieces of work."""

    def __init__(self, make: Callable[[Runtime, Memory], Sequence[E]]) -> None:
        self._make = make
        self._made: dict[Memory, Sequence[E]] = {}

    def of(self, runtime: Runtime, memory: Memory) -> Sequence[E]:
        """Those for frames in `memory`, made when they are first asked for."""
        if memory not in self._made:
            self._made[memory] = self._make(runtime, memory)
        return self._made[memory]


@dataclass(frozen=True)
class Work:
    """A piece of work of a stage. `instead`: why its chain begins where it does, "" if with the
    best engine; of the reasons of `FALLBACKS`."""

    stage: str
    job: str
    priority: int = 5
    instead: str = ""


def first_able(
    runtime: Runtime,
    work: Work,
    chain: Sequence[E],
    do: Callable[[E, Check], T],
    *,
    name: Callable[[E], str],
    session: Callable[[E], SessionNeed | None] = lambda _: None,
    refusal: Callable[[E], EngineError | None] = lambda _: None,
) -> T:
    """What the first able engine of `chain` makes of the work: `do(engine, check)`, called from its
    beginning for each. Noted for the job's report and the figures, with the reason where one before
    it should have done it.

    `refusal`: why an engine can't do it, where that is known without asking the device; no session
    is held for it then.

    Raises DeferredError while a driver refuses a session and there is hope for it; what the last
    engine raised when none is able; DeviceLostError at once, as no other engine could do better.
    """
    last: DualfaceError | None = None
    why = work.instead
    for engine in chain:
        need = session(engine)
        try:
            if (known := refusal(engine)) is not None:
                raise known
            with runtime.sessions.hold(need, work.job, work.priority) as check:
                made = do(engine, check)
        except EngineBusyError as error:
            if need is None:
                raise
            runtime.sessions.wait_for(need, error)
            runtime.ledger.add(work.job, **{f"busy_{work.stage}": 1})
            last, why = error, "sessions"
        except DeviceFullError as error:
            last, why = error, "out_of_memory"
        except DeviceLostError:
            raise
        except EngineError as error:
            last = error
            if not error.able:
                _say_once(runtime, name(engine), error)
                continue
            why = "failed"
        else:
            runtime.serve(work.job, work.stage, name(engine), why)
            return made
        Log().warning("engine passed over", engine=name(engine), why=why, reason=last.message)
    assert last is not None
    raise last


def _say_once(runtime: Runtime, engine: str, error: EngineError) -> None:
    """Log that `engine` can't do some work, once in this process for each reason."""
    told = engine, error.message
    if told in runtime.told:
        return
    if len(runtime.told) >= MOST_TOLD:
        runtime.told.clear()
    runtime.told.add(told)
    log = Log()
    log.warning("engine passed over", engine=engine, why="unsupported", reason=error.message)


def able(makers: Sequence[Callable[[], E]]) -> list[E]:
    """The engines that can be made in this process, in order; why not is logged for the others."""
    made: list[E] = []
    for make in makers:
        try:
            made.append(make())
        except DeviceLostError:
            raise
        except EngineError as error:
            Log().warning("engine not here", reason=error.message)
    return made
