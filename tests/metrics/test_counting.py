"""What is counted where: by parts on their own, and by all processes of a whole run."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.compose.identities import place_changes
from services.compose.persons import Person, PersonsState
from services.compose.plan import ComposeState
from services.compose.tracker import Box
from shared.errors import (
    DualfaceError,
    ErrorCode,
    PermanentError,
    SpentError,
    StoreAwayError,
    TemporaryError,
    WorkOverError,
)
from shared.giving_up import give_up_batch
from shared.metrics import Meter
from shared.metrics.book import RESERVED_BYTES, render
from shared.metrics.catalogue import (
    ENGINE_USES,
    FALLBACKS,
    FRAMES,
    GIVEN_UP,
    LEASE_WAIT,
    PIPELINE_BATCH,
    PIPELINE_FRAME,
    STAGE_BATCH,
    STAGE_FRAME,
    STORE_ERRORS,
    STORE_SECONDS,
)
from shared.metrics.store import metered
from shared.redisdb import Connection
from shared.runtime import make_runtime
from shared.storage.base import DirectUploads
from shared.storage.directory import DirectoryStore
from shared.tracks import BatchPlan
from tests.builders import batch_message, job_spec, output_plan, segment, source_info
from tests.metrics.notes import Notes
from tests.runtimes import Recorder, runtime
from tests.servers import free_port
from tests.system.runs import home_in
from tests.videos import CLOSED_GOP_X264, make_video

pytestmark = pytest.mark.timeout(300)


def test_the_figures_of_a_whole_run_add_up(tmp_path: Path) -> None:
    """All processes of the embedded stack count into one folder; none of them wants the port."""
    video = make_video(tmp_path / "in.mp4", replace(CLOSED_GOP_X264, size=(320, 180), frames=50))
    folder = tmp_path / "figures"
    port = str(free_port())
    with home_in(tmp_path, metrics_dir=str(folder), http_port=port, dead_after_s="30") as home:
        ended = home.run("run", video, "-o", tmp_path / "out.mp4")
        assert ended.code == 0, ended.said
    used = [struct.unpack("i", path.read_bytes()[:4])[0] for path in folder.glob("*.db")]
    assert max(used) < RESERVED_BYTES / 2  # of what each process had to say
    said = render(folder)[0].decode()

    def sum_of(series: str) -> float:
        return sum(float(n) for n in re.findall(rf"^{series}(?:{{[^}}]*}})? (\S+)$", said, re.M))

    for stage in ("decode", "infer", "compose", "encode"):
        assert f'dualface_frames_total{{stage="{stage}"}} 50.0' in said
        assert f'dualface_stage_batch_seconds_count{{stage="{stage}"}}' in said
    batches = sum_of("dualface_pipeline_batch_seconds_count")
    assert batches >= 50 / 8
    assert sum_of("dualface_batch_fill_ratio_count") == batches
    assert sum_of("dualface_stage_frame_seconds_count") == 4 * batches
    assert 'dualface_engine_uses_total{engine="pyav-libx264",stage="encode"}' in said
    assert 'dualface_tasks_total{outcome="done",task="encode.mux"} 1.0' in said
    assert sum_of("dualface_lease_wait_seconds_count") >= 2 * batches
    assert sum_of("dualface_given_up_total") == sum_of("dualface_impaired_frames_total") == 0
    assert "dualface_jobs{" not in said  # the coordinator is gone, and its gauges with it


# --- a stage's time ---------------------------------------------------------------------------


def test_a_stages_time_is_that_of_its_work_and_not_of_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    notes = Notes()
    meter = Meter("decode", notes)
    meter.begin()
    now += 5
    meter.waited("slots:cpu0:decoded", 3.0)
    meter.batch_done("decode", 10)
    now += 1
    meter.batch_done("decode", 5)
    assert notes.observed(STAGE_BATCH, "decode") == [2.0, 1.0]
    assert notes.observed(STAGE_FRAME, "decode") == [0.2, 0.2]
    assert notes.observed(LEASE_WAIT, "decoded") == [3.0]
    assert notes.sum(FRAMES, "decode") == 15


def test_latency_counts_from_when_a_batch_was_decoded_whichever_process_did_it() -> None:
    notes = Notes()
    meter = Meter("encode", notes)
    meter.batch_stored(10, time.monotonic_ns() - 2 * 10**9)
    meter.batch_stored(10, 0)  # of a release that did not write it down
    (batch,) = notes.observed(PIPELINE_BATCH)
    (frame,) = notes.observed(PIPELINE_FRAME)
    assert batch >= 2.0
    assert frame == batch / 10
    assert notes.sum(FRAMES, "encode") == 20


def test_waiting_for_a_slot_is_measured_also_when_none_came(
    redis: Connection, tmp_path: Path
) -> None:
    notes = Notes()
    plain, _ = runtime(redis, tmp_path)
    made = make_runtime(
        plain.settings, redis, plain.store, Recorder(), "me", meter=Meter("decode", notes)
    )
    made.leases.resize("slots:cpu0:decoded", 1)
    assert made.leases.acquire("slots:cpu0:decoded", "a")
    assert made.leases.acquire("slots:cpu0:decoded", "b", wait_s=0.05) is None
    first, second = notes.observed(LEASE_WAIT, "decoded")
    assert first < second
    assert second >= 0.05


# --- engines, work given up ---------------------------------------------------------------------


def test_an_engine_that_stands_in_for_another_is_counted_with_the_reason(
    redis: Connection, tmp_path: Path
) -> None:
    notes = Notes()
    plain, _ = runtime(redis, tmp_path)
    made = replace(plain, meter=Meter("compose", notes))
    made.ledger.submit("j", job_spec())
    made.serve("j", "compose", "opencv")
    made.serve("j", "compose", "plain", "earlier_tries")
    assert notes.sum(ENGINE_USES, "compose", "opencv") == 1
    assert notes.sum(FALLBACKS, "compose", "earlier_tries") == 1
    view = made.ledger.view("j")
    assert view is not None
    assert view.engines == {"compose": "plain"}


def test_a_batch_that_is_given_up_counts_for_its_stage(redis: Connection, tmp_path: Path) -> None:
    notes = Notes()
    plain, _ = runtime(redis, tmp_path)
    made = replace(plain, meter=Meter("infer", notes))
    made.ledger.submit("j", job_spec())
    made.ledger.put_facts("j", source_info(), output_plan(), 10)
    made.ledger.add_segment("j", segment(0, 100))
    made.ledger.split_done("j", 1, 100)
    give_up_batch(made, batch_message(), SpentError(ErrorCode.STAGE_FAILED, "It always dies."))
    assert notes.sum(GIVEN_UP, "infer") == 1


# --- the store ------------------------------------------------------------------------------------


def test_store_operations_are_timed_and_their_failures_counted(tmp_path: Path) -> None:
    notes = Notes()
    store = metered(DirectoryStore(tmp_path / "store"), Meter("encode", notes))
    (tmp_path / "file").write_bytes(b"x")
    store.put("jobs/j/a", tmp_path / "file")
    with store.local("jobs/j/a") as path:
        assert path.read_bytes() == b"x"
    assert store.exists("jobs/j/a")
    assert store.delete("jobs/j") == 1
    assert {labels[0] for name, labels in notes.seen if name == STORE_SECONDS.name} == {
        "put",
        "get",
        "stat",
        "delete",
    }
    with pytest.raises(PermanentError), store.local("jobs/j/a"):
        pass
    assert notes.sums == {}  # that it is not there is an answer


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (OSError("No space left on device"), 1),
        (PermanentError(ErrorCode.INTERNAL, "x"), 1),
        (PermanentError(ErrorCode.TOO_LARGE, "x"), 0),
        (PermanentError(ErrorCode.BAD_OPTION, "x"), 0),
        (WorkOverError("j"), 0),
        (FileNotFoundError("gone"), 0),
    ],
)
def test_what_counts_as_a_failure_of_the_store(error: Exception, counted: int) -> None:
    notes = Notes()
    with pytest.raises(type(error)), Meter("encode", notes).store("put"):
        raise error
    assert notes.sum(STORE_ERRORS, "put") == counted
    assert len(notes.observed(STORE_SECONDS, "put")) == 1


def test_what_a_caller_gives_is_neither_the_stores_failure_nor_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    notes = Notes()
    store = metered(DirectoryStore(tmp_path / "store"), Meter("api", notes))

    def slow(*, ends: bool) -> Iterator[bytes]:
        nonlocal now
        yield b"first"
        now += 60
        if not ends:
            raise TemporaryError(ErrorCode.BUSY, "The upload was broken off.")

    assert store.write("jobs/j/a", slow(ends=True)) == 5
    with pytest.raises(TemporaryError, match="broken off"):
        store.write("jobs/j/b", slow(ends=False))
    assert notes.sums == {}
    assert notes.observed(STORE_SECONDS, "put") == [0, 0]


def test_a_store_that_breaks_while_it_is_written_to_is_counted(tmp_path: Path) -> None:
    notes = Notes()
    (tmp_path / "store").write_bytes(b"a file where the folder should be")
    store = metered(DirectoryStore(tmp_path / "store"), Meter("api", notes))
    with pytest.raises((DualfaceError, OSError)):
        store.write("jobs/j/a", iter([b"x"]))
    assert notes.sum(STORE_ERRORS, "put") == 1


def test_a_store_that_clients_may_send_to_stays_one_when_it_is_counted() -> None:
    class Away:
        """Of a store, what is asked for."""

        def complete(self, *_: object) -> None:
            raise StoreAwayError(ErrorCode.BUSY, "It does not answer.", 1.0)

        begin = part_link = abort = open_uploads = complete

    notes = Notes()
    away: Any = Away()
    store = metered(away, Meter("api", notes))
    assert isinstance(store, DirectUploads)
    for asks in (lambda: store.begin("k"), lambda: store.complete("k", "u", [])):
        with pytest.raises(StoreAwayError):
            asks()
    assert notes.sum(STORE_ERRORS, "put") == 2
    assert not isinstance(metered(DirectoryStore(Path()), Meter("api", notes)), DirectUploads)


def test_a_store_is_not_wrapped_where_nothing_is_counted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert metered(store, Meter()) is store


# --- who is in the tiles --------------------------------------------------------------------------


def state(left: int, right: int, *, missing: int = 0) -> ComposeState:
    """The two are in their places, at the time 1 s; `missing` was seen before that only."""

    def person(number: int) -> Person | None:
        box = Box(0, 0, 1, 1)
        seen_s = 0.5 if number == missing else 1.0
        return Person(id=number, track=number, box=box, seen_s=seen_s, x=0) if number else None

    places = person(left), person(right)
    return ComposeState(persons=PersonsState(places=places, next_id=9, time_s=1.0))


def plan(*steps: tuple[int, int, int]) -> BatchPlan:
    """Who is left, who is right, how many of them are seen."""
    return BatchPlan(
        views=(),
        frames=tuple(range(len(steps))),
        persons=tuple((left, right) for left, right, _ in steps),
        seen=tuple(seen for _, _, seen in steps),
    )


@pytest.mark.parametrize(
    ("before", "steps", "found"),
    [
        (state(1, 2), [(1, 2, 2), (1, 2, 2)], {}),
        (state(0, 0), [(1, 2, 2)], {"joined": 2}),
        (state(1, 2), [(1, 2, 2), (2, 1, 2), (2, 1, 2)], {"swapped": 1}),
        (state(1, 0), [(0, 1, 1)], {"swapped": 1}),
        (state(1, 2), [(1, 3, 2)], {"replaced": 1}),
        (state(1, 2), [(3, 4, 2)], {"replaced": 2}),
        (state(1, 2), [(1, 2, 1), (1, 2, 0), (1, 2, 2)], {"returned": 2}),
        (state(1, 2, missing=2), [(1, 2, 2)], {"returned": 1}),
        (state(1, 2), [(2, 1, 2), (1, 2, 2)], {"swapped": 2}),
        (state(1, 0), [(3, 1, 2)], {"swapped": 1, "replaced": 1}),
    ],
)
def test_changes_of_places_are_told_by_their_kind(
    before: ComposeState, steps: list[tuple[int, int, int]], found: dict[str, int]
) -> None:
    counted = place_changes(before, plan(*steps))
    assert {kind: times for kind, times in counted.items() if times} == found
