"""Facts about going down a chain of engines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.compose.engines import renderers
from services.decode.engines import decoders
from services.encode.engines import encoders
from services.infer.engines import Detectors
from shared.cuda.memory import Staging
from shared.engines import Check, Work, able, first_able, from_due
from shared.errors import DeviceLostError, EngineError, ErrorCode, OutOfMemoryError, PermanentError
from shared.metrics import Meter
from shared.metrics.catalogue import FALLBACKS
from shared.redisdb import Connection
from shared.runtime import Runtime
from tests.encode.jobs import bench
from tests.metrics.notes import Notes
from tests.runtimes import runtime

if TYPE_CHECKING:
    from shared.cuda.device import Device


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


def passed_over(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Engine and reason of each line in the log."""
    lines = [vars(each)["fields"] for each in caplog.records if each.message == PASSED_OVER]
    return [(line["engine"], line["why"]) for line in lines]


PASSED_OVER = "engine passed over"


def test_what_can_not_be_done_here_is_said_once_for_each_reason_and_not_counted(
    redis: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    made = replace(runtime(redis, tmp_path)[0], meter=Meter("encode", notes))
    other = Engine("other")
    for reason in ("no such package", "pictures too large", "no such package"):
        for _ in range(3):
            run(made, Engine("best", EngineError(reason)), other)
    assert passed_over(caplog) == [("best", "unsupported")] * 2
    assert FALLBACKS.name not in {name for name, _ in notes.sums}


def test_what_should_have_been_done_is_said_and_counted_each_time(
    redis: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    made = replace(runtime(redis, tmp_path)[0], meter=Meter("encode", notes))
    for _ in range(3):
        broken = Engine("best", EngineError("it broke", able=True))
        run(made, broken, Engine("second", unable()), Engine("other"))
    assert passed_over(caplog).count(("best", "failed")) == 3
    assert notes.sum(FALLBACKS, "encode", "failed") == 3, "whoever could not, in between"


def test_an_engine_that_is_known_not_to_do_it_is_not_asked(
    redis: Connection, tmp_path: Path
) -> None:
    made, _ = runtime(redis, tmp_path)
    best, other = Engine("best"), Engine("other")
    said = first_able(
        made,
        Work("encode", "j"),
        [best, other],
        lambda engine, check: engine.do(check),
        name=lambda engine: engine.name,
        refusal=lambda engine: unable() if engine is best else None,
    )
    assert (said, best.asked) == ("made by other", 0)


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


@pytest.mark.parametrize(
    ("engines", "order"), [("abcd", "abcd"), ("abc", "aabc"), ("ab", "aabb"), ("a", "aaaa")]
)
def test_tries_are_shared_out_over_the_engines_of_a_stage(engines: str, order: str) -> None:
    tries = len(order)
    assert "".join(from_due(engines, each + 1, tries)[0][0] for each in range(tries)) == order


@pytest.mark.usefixtures("doubles")
def test_a_gpu_is_tried_twice_where_its_stage_has_three_engines_and_once_where_it_has_four(
    redis: Connection, tmp_path: Path
) -> None:
    """As docs/gpu.md says it of stages whose engines are all here."""
    made, _ = runtime(redis, tmp_path, gpu_device="GPU-0")
    made = replace(made, device=Here())  # type: ignore[arg-type]
    counts = {
        "decode": len(decoders(made, "device")),
        "infer": len(Detectors().of(made, "auto", "device")),
        "compose": len(renderers(made, "device")),
        "encode": len(encoders(made, "device")),
    }
    assert counts == {"decode": 4, "infer": 4, "compose": 3, "encode": 4}


class Here:
    """The double of this process, whatever its name."""

    def __init__(self) -> None:
        from shared.cuda.device import Device

        self._device = Device()

    def __call__(self) -> Device:
        return self._device

    def staging(self) -> Staging:
        """See OwnDevice."""
        return Staging(self._device)


def test_engines_that_are_not_here_are_left_out_and_lost_devices_are_not() -> None:
    def missing() -> str:
        raise EngineError("no such package")

    def lost() -> str:
        raise DeviceLostError("fallen off the bus")

    assert able([missing, lambda: "here"]) == ["here"]
    with pytest.raises(DeviceLostError):
        able([lost])
