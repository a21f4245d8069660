"""Facts about fair dispatch."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.coordinator.plan import FairShare


def serve(fair: FairShare, weights: dict[str, int], turns: int) -> list[str]:
    """Who gets the next `turns` segments when all jobs always have some."""
    served = []
    for _ in range(turns):
        job = fair.order(weights)[0]
        fair.charge(job, weights[job])
        served.append(job)
    return served


def test_equal_jobs_take_turns() -> None:
    counts = Counter(serve(FairShare(), {"a": 5, "b": 5, "c": 5}, 30))
    assert set(counts.values()) == {10}


def test_priority_is_a_weight() -> None:
    counts = Counter(serve(FairShare(), {"low": 0, "high": 9}, 110))
    assert counts == {"low": 10, "high": 100}


def test_a_newcomer_goes_next_but_does_not_catch_up() -> None:
    fair = FairShare()
    serve(fair, {"old": 5}, 100)
    served = serve(fair, {"old": 5, "new": 5}, 20)
    assert "new" in served[:2]
    assert abs(served.count("new") - 10) <= 1


def test_a_job_that_is_gone_is_forgotten() -> None:
    fair = FairShare()
    serve(fair, {"a": 5, "b": 5}, 4)
    fair.order({"b": 5})
    assert set(fair.clocks) == {"b"}


@given(st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 9), min_size=1, max_size=6))
def test_nobody_starves(weights: dict[str, int]) -> None:
    total = sum(weight + 1 for weight in weights.values())
    counts = Counter(serve(FairShare(), weights, 3 * total))
    for job, weight in weights.items():
        assert abs(counts[job] - 3 * (weight + 1)) <= len(weights)
