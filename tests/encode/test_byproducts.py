"""Facts about what a job leaves beside its result, made by the real stages on a real server."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from services.encode import byproducts
from services.encode.byproducts import JobReport
from services.encode.engines.pyav import PyAvEncoder
from services.encode.stage import encode_batch, mux_job, replace_batch
from shared.errors import ErrorCode
from shared.jobs import JobState
from shared.ledger import JobView
from shared.names import report_key, result_key, thumbnail_folder, tracks_key
from shared.redisdb import Connection
from shared.runtime import Runtime
from shared.tracks import TrackLine
from tests.encode.jobs import TICKS, Bench, bench, plan_of

CHAIN = [PyAvEncoder()]


@pytest.fixture
def made(redis: Connection, tmp_path: Path) -> Iterator[Bench]:
    with bench(redis, tmp_path) as it:
        yield it


def read(runtime: Runtime, key: str) -> bytes:
    return b"".join(runtime.store.read(key))


def objects(runtime: Runtime) -> set[str]:
    return {key.removeprefix("jobs/j/") for key in runtime.store.keys("jobs/j")}


def view_of(runtime: Runtime) -> JobView:
    view = runtime.ledger.view("j")
    assert view is not None
    return view


def lines(runtime: Runtime) -> list[TrackLine]:
    text = gzip.decompress(read(runtime, tracks_key("j"))).decode()
    return [TrackLine.model_validate_json(line) for line in text.splitlines()]


def whole_job(made: Bench, folder: Path, **spec: Any) -> None:
    """Two batches, and one between them that is replaced; then the result."""
    made.begin(**spec)
    made.put_source(folder)
    first = made.composed(0, 5)
    encode_batch(made.runtime, first, CHAIN)
    given_up = made.given_up(1, 3)
    encode_batch(made.runtime, made.composed(2, 4), CHAIN)
    replace_batch(made.runtime, given_up, CHAIN)
    made.decoded(3)
    mux_job(made.runtime, made.mux_message())


def test_the_tracks_have_one_line_for_each_frame_of_the_result(made: Bench, tmp_path: Path) -> None:
    whole_job(made, tmp_path)
    found = lines(made.runtime)
    pts = [TICKS * at for at in (0, 1, 2, 3, 4, 100, 101, 102, 200, 201, 202, 203)]
    assert [line.pts for line in found] == pts
    assert [line.time_s for line in found] == [p / 12800 for p in pts]
    assert [line.views for line in found[:5]] == list(plan_of(5).views)
    assert [line.persons for line in found[:5]] == [(1, 0), (1, 0), (1, 2), (1, 2), (1, 2)]
    assert [line.detected for line in found[:5]] == [True, False, True, False, True]
    assert [line.cut for line in found[:5]] == [False, False, True, False, False]
    assert [line.replaced for line in found] == [False] * 5 + [True] * 3 + [False] * 4
    assert all(line.views is None and line.persons is None for line in found[5:8])


def test_a_part_of_the_tracks_that_is_missing_costs_its_views_alone(
    made: Bench, tmp_path: Path
) -> None:
    made.begin()
    made.put_source(tmp_path)
    for batch in range(2):
        encode_batch(made.runtime, made.composed(batch, 3), CHAIN)
    made.runtime.store.delete("jobs/j/tracks/000000-000000.jsonl.gz")
    made.decoded(2)
    mux_job(made.runtime, made.mux_message())
    assert [line.views is None for line in lines(made.runtime)] == [True] * 3 + [False] * 3


def test_the_report_says_what_was_made_and_how(made: Bench, tmp_path: Path) -> None:
    whole_job(made, tmp_path, bitrate_kbps=500)
    text = read(made.runtime, report_key("j")).decode()
    report = JobReport.model_validate_json(text)
    view = view_of(made.runtime)
    assert view.state is JobState.SUCCEEDED
    assert report.result == view.result
    assert report.spec.bitrate_kbps == report.rate.kbps == 500
    assert (report.result.frames, report.result.frames_replaced) == (12, 3)
    assert report.engines["encode"] == "pyav-libx264"
    (replaced,) = report.replaced
    assert (replaced.frames, replaced.from_s, replaced.to_s) == (3, 4.0, 4.08)
    (lost,) = report.lost
    assert (lost.frames, lost.from_s, lost.to_s) == (2, 0.0, None)
    assert report.versions["ffmpeg"]
    assert report.cpu_s["encode"] > 0
    assert report.times.submitted_ms <= report.times.ended_ms
    facts: dict[str, Any] = json.loads(text)
    assert facts["v"] == 1


def test_a_report_does_not_tell_the_address_of_its_source(made: Bench, tmp_path: Path) -> None:
    whole_job(made, tmp_path, source="https://host/source.mp4?signature=secret")
    assert b"secret" not in read(made.runtime, report_key("j"))


def test_chunks_have_a_thumbnail_while_the_job_runs_also_replaced_ones(made: Bench) -> None:
    made.begin()
    given_up = made.given_up(0, 3)
    encode_batch(made.runtime, made.composed(1), CHAIN)
    replace_batch(made.runtime, given_up, CHAIN)
    names = sorted(made.runtime.store.keys(thumbnail_folder("j")))
    assert [name[-17:] for name in names] == ["000000-000000.jpg", "000000-000001.jpg"]
    for name in names:
        with made.runtime.store.local(name) as path:
            picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.shape == (64, 128, 3)


@pytest.mark.parametrize("step", ["thumbnail", "thumbnail_key"])
def test_a_thumbnail_that_fails_costs_nothing_else(
    made: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("broken")

    monkeypatch.setattr(byproducts, step, broken)
    made.begin()
    encode_batch(made.runtime, made.composed(), CHAIN)
    assert objects(made.runtime) == {
        "chunks/000000-000000.nut",
        "tracks/000000-000000.jsonl.gz",
    }
    assert view_of(made.runtime).done[3] == 4


def test_a_batch_made_again_leaves_the_same_bytes(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.begin()
    message = made.composed()

    def dies(*_: object) -> bool:
        raise RuntimeError("killed before it could say that it is done")

    with monkeypatch.context() as patch:
        patch.setattr(made.runtime.ledger, "chunk_done", dies)
        with pytest.raises(RuntimeError, match="killed"):
            encode_batch(made.runtime, message, CHAIN)
    before = {name: read(made.runtime, f"jobs/j/{name}") for name in objects(made.runtime)}
    encode_batch(made.runtime, message, CHAIN)
    after = {name: read(made.runtime, f"jobs/j/{name}") for name in objects(made.runtime)}
    assert after == before
    assert {name.partition("/")[0] for name in after} == {"chunks", "tracks", "thumbnails"}


def test_a_job_that_ended_meanwhile_is_left_nothing(made: Bench, tmp_path: Path) -> None:
    made.begin()
    made.put_source(tmp_path)
    message = made.composed()
    ledger, store = made.runtime.ledger, made.runtime.store

    class Late(PyAvEncoder):
        def encode(self, *arguments: Any, **options: Any) -> Any:
            """As ever; at its end the job is cancelled and cleaned up after."""
            done = super().encode(*arguments, **options)
            ledger.fail("j", ErrorCode.CANCELLED, "Enough.")
            store.delete("jobs/j")
            return done

    encode_batch(made.runtime, message, [Late()])
    assert objects(made.runtime) == set()


def test_a_job_cancelled_while_its_result_is_made_is_left_nothing(
    made: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, store = made.runtime.ledger, made.runtime.store
    finish = ledger.finish

    def late(*arguments: Any) -> bool:
        ledger.fail("j", ErrorCode.CANCELLED, "Enough.")
        left = {result_key("j", "mp4"), tracks_key("j"), report_key("j")}
        assert left <= set(store.keys("jobs/j"))
        return finish(*arguments)

    monkeypatch.setattr(ledger, "finish", late)
    whole_job(made, tmp_path)
    assert not {"result.mp4", "tracks.jsonl.gz", "report.json"} & objects(made.runtime)
