"""The bound on memory that demuxers and decoders work under."""

from __future__ import annotations

import itertools
import resource
import threading
from collections.abc import Generator

import numpy as np
import pytest

from shared.errors import ErrorCode, PermanentError
from shared.media.bounds import memory_at_most

SIZES_MIB = (512, 256, 1024)


def soft_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def bounded(mib: int) -> Generator[int, None, None]:
    """As a decoder that is left in the middle of a segment: it keeps its bound while it waits."""
    with memory_at_most(mib):
        while True:
            yield soft_limit()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_in_whatever_order_they_end_the_least_counts_and_nothing_stays(
    order: tuple[int, ...],
) -> None:
    before = soft_limit()
    each = {number: bounded(mib) for number, mib in enumerate(SIZES_MIB)}
    seen = [next(one) for one in each.values()]
    assert seen[2] == seen[1] < seen[0], "the second is the least of the three"
    for number in order:
        each.pop(number).close()
        if each:
            counts = {next(one) for one in each.values()}
            assert counts == {seen[1]} if 1 in each else counts != {seen[1]}
            assert before not in counts
    assert soft_limit() == before


def test_two_threads_leave_the_process_as_it_was() -> None:
    before, meet = soft_limit(), threading.Barrier(2, timeout=60)
    seen: list[int] = []

    def first() -> None:
        with memory_at_most(256):
            meet.wait()  # the other begins
            meet.wait()  # it has begun
        meet.wait()

    def second() -> None:
        meet.wait()
        with memory_at_most(512):
            meet.wait()
            meet.wait()  # the first has ended
            seen.append(soft_limit())

    threads = [threading.Thread(target=each) for each in (first, second)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(seen) == 1
    assert seen[0] not in (before, 0)
    assert soft_limit() == before


def test_one_that_ends_amid_a_change_of_bounds_stands_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the collector ends an abandoned decoder: at any allocation, in this very thread."""
    before, real = soft_limit(), resource.setrlimit
    left = bounded(256)
    least, abandoned = next(left), [left]

    def interrupted(what: int, limits: tuple[int, int]) -> None:
        if abandoned:
            abandoned.pop().close()
        real(what, limits)

    monkeypatch.setattr(resource, "setrlimit", interrupted)
    with memory_at_most(512):
        assert not abandoned
        assert soft_limit() > least
    assert soft_limit() == before


def test_a_tighter_limit_of_the_process_stays() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    tight = 64 << 30
    resource.setrlimit(resource.RLIMIT_DATA, (tight, before[1]))
    try:
        with memory_at_most(1 << 20):
            assert soft_limit() == tight
        assert soft_limit() == tight
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_more_is_refused_in_one_sentence() -> None:
    with pytest.raises(PermanentError) as caught, memory_at_most(64):
        np.ones(1 << 28, np.uint8)
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert "64 MiB" in caught.value.message
