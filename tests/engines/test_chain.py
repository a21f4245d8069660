"""Facts about going down a chain of engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.engines import Check, Work, able, first_able, from_due
from shared.errors import DeviceLostError, EngineError, ErrorCode, OutOfMemoryError, PermanentError
from shared.redisdb import Connection
from shared.runtime import Runtime
from tests.encode.jobs import bench
from tests.runtimes import runtime


@dataclass
class Engine:
    """Does its work, or raises; what it was asked for is kept."""

    name: str
    error: Exception | None = None
    asked: int = 0

    def do(self, _: Check) -> str:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return f"made by {self.name}"


def run(made: Runtime, *chain: Engine, instead: str = "") -> str:
    return first_able(
        made,
        Work("encode", "j", instead=instead),
        chain,
        lambda engine, check: engine.do(check),
        name=lambda engine: engine.name,
    )


def unable() -> EngineError:
    return EngineError("this device can't do it")


def test_the_first_that_can_does_the_work(redis: Connection, tmp_path: Path) -> None:
    made, _ = runtime(redis, tmp_path)
    best, other = Engine("best"), Engine("other")
    assert run(made, best, other) == "made by best"
    assert (best.asked, other.asked) == (1, 0)


@pytest.mark.parametrize(
    "error", [unable(), EngineError("it broke", able=True), OutOfMemoryError("of a small device")]
)
def test_work_that_an_engine_does_not_get_done_is_the_next_ones(
    redis: Connection, tmp_path: Path, error: Exception
) -> None:
    made, _ = runtime(redis, tmp_path)
    assert run(made, Engine("best", error), Engine("other")) == "made by other"


def test_an_engine_is_out_for_one_piece_of_work_only(redis: Connection, tmp_path: Path) -> None:
    made, _ = runtime(redis, tmp_path)
    best, other = Engine("best", unable()), Engine("other")
    run(made, best, other)
    best.error = None
    assert run(made, best, other) == "made by best"


def test_the_report_names_the_engine_that_did_the_work(redis: Connection, tmp_path: Path) -> None:
    with bench(redis, tmp_path) as jobs:
        jobs.begin()
        run(jobs.runtime, Engine("best", unable()), Engine("other"))
        view = jobs.runtime.ledger.view("j")
        assert view is not None
        assert view.engines["encode"] == "other"


def test_a_lost_device_is_nothing_that_another_engine_could_mend(
    redis: Connection, tmp_path: Path
) -> None:
    made, _ = runtime(redis, tmp_path)
    other = Engine("other")
    with pytest.raises(DeviceLostError):
        run(made, Engine("best", DeviceLostError("an illegal access")), other)
    assert other.asked == 0


def test_when_none_can_the_last_ones_error_is_told(redis: Connection, tmp_path: Path) -> None:
    made, _ = runtime(redis, tmp_path)
    with pytest.raises(EngineError, match="really not"):
        run(made, Engine("best", unable()), Engine("last", EngineError("really not")))


def test_an_error_of_the_job_itself_ends_the_search(redis: Connection, tmp_path: Path) -> None:
    made, _ = runtime(redis, tmp_path)
    other = Engine("other")
    with pytest.raises(PermanentError):
        run(made, Engine("best", PermanentError(ErrorCode.SOURCE_EMPTY, "no frames")), other)
    assert other.asked == 0


def test_each_try_begins_further_down_the_chain() -> None:
    chain = ("a", "b", "c")
    assert from_due(chain, 1, 3) == (("a", "b", "c"), "")
    assert from_due(chain, 2, 3) == (("b", "c"), "earlier_tries")
    assert from_due(chain, 3, 3) == (("c",), "earlier_tries")


def test_engines_that_are_not_here_are_left_out_and_lost_devices_are_not() -> None:
    def missing() -> str:
        raise EngineError("no such package")

    def lost() -> str:
        raise DeviceLostError("fallen off the bus")

    assert able([missing, lambda: "here"]) == ["here"]
    with pytest.raises(DeviceLostError):
        able([lost])
