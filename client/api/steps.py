"""What a flow may ask of whoever carries it out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from client.api.bodies import FileBody

T = TypeVar("T")

CONNECT_S = 10.0
WRITE_S = 60.0


@dataclass(frozen=True)
class Call:
    """One request, sent once. `path` is of the service unless it is a whole address, which gets no
    key. `read_s`: longest silence until and within its answer; None: the client's own."""

    method: str
    path: str
    params: Mapping[str, str | int | bool] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    body: FileBody | None = None
    read_s: float | None = None
    follow: bool = False

    @property
    def ours(self) -> bool:
        """True when it goes to the service, and so with the key."""
        return self.path.startswith("/")


@dataclass(frozen=True)
class Fetch:
    """A request whose answer's body goes to what `begin` makes of its head, as it comes.

    Answers that are errors are read and returned as those of a Call are.
    """

    call: Call
    begin: Callable[[httpx.Response], Callable[[bytes], object]]


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Something that blocks for a moment: a look at a file, an fsync. What it raises passes."""

    do: Callable[[], object]


@dataclass(frozen=True)
class Together:
    """Several flows, `at_once` of them at a time; the first error ends all. Answers with a list of
    what they returned, in order."""

    flows: Sequence[Flow[object]]
    at_once: int


Step = Call | Fetch | Pause | Work | Together
Answer = httpx.Response | Sequence[object] | object | None
Flow = Generator[Step, Answer, T]
"""Given the outcome of each step. Of errors, httpx.RequestError and ApiError are raised inside."""


def one(call: Call | Fetch) -> Flow[httpx.Response]:
    """Send it once. Raises httpx.RequestError."""
    answer = yield call
    assert isinstance(answer, httpx.Response)
    return answer


def work(do: Callable[[], T]) -> Flow[T]:
    """Do it where it may block."""
    found: list[T] = []
    yield Work(lambda: found.append(do()))
    return found[0]


def pause(seconds: float) -> Flow[None]:
    """Wait."""
    yield Pause(seconds)


def together(flows: Sequence[Flow[T]], at_once: int) -> Flow[list[T]]:
    """All of them."""
    found: dict[int, T] = {}

    def kept(index: int, flow: Flow[T]) -> Flow[object]:
        found[index] = yield from flow
        return None

    yield Together([kept(index, flow) for index, flow in enumerate(flows)], at_once)
    return [found[index] for index in range(len(flows))]
