"""Which batches of a segment are missing, and which times are theirs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain

import pytest

from services.decode.missing import missing_batches
from services.decode.plan import batch_length

TIMES = list(range(0, 250, 10))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, {0: (0, 80), 1: (90, 170), 2: (180, 240)}),
        ({0: range(0, 80, 10)}, {1: (80, 160), 2: (170, 240)}),
        ({1: range(80, 160, 10)}, {0: (0, 70), 2: (160, 240)}),
        ({0: range(0, 80, 10), 2: range(160, 250, 10)}, {1: (80, 150)}),
        ({0: range(0, 80, 10), 1: range(80, 160, 10), 2: range(160, 250, 10)}, {}),
    ],
)
def test_every_time_that_nobody_shows_is_in_one_missing_batch(
    known: Mapping[int, range], expected: dict[int, tuple[int, int]]
) -> None:
    made = {batch: list(times) for batch, times in known.items()}
    found = missing_batches(TIMES, made, lambda _: 9)
    assert {batch: (times[0], times[-1]) for batch, times in found.items()} == expected
    shown = sorted(chain(*found.values(), *made.values()))
    assert shown == TIMES


def test_batches_are_as_long_as_a_decoder_would_have_made_them() -> None:
    found = missing_batches(TIMES, {}, partial(batch_length, len(TIMES), 10))
    assert [len(times) for times in found.values()] == [8, 8, 9]


def test_what_a_decoder_showed_at_other_times_is_not_shown_twice() -> None:
    """Its first batch lost two frames, so it reached further."""
    found = missing_batches(TIMES, {0: [0, 10, 40, 50, 60, 70, 80, 90]}, lambda _: 9)
    assert found[1][0] == 100
    assert found[2][-1] == 240
