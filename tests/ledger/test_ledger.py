"""Facts about the ledger, on a real server."""

from __future__ import annotations

import json

import pytest

from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.jobs import JobState
from shared.ledger import ChunkRecord, JobResult, Ledger, Losses
from shared.ledger.agenda import GRACE_S
from shared.messages import BatchMessage, ForeignBatch, ReplaceMessage
from shared.redisdb import Connection
from shared.workers import PREFIX
from tests.builders import batch_message, job_spec, output_plan, segment, source_info

NONE = Losses(0, 0, 0, 0)


@pytest.fixture
def ledger(redis: Connection) -> Ledger:
    return Ledger(redis, retention_s=60, attempts=2)


def begin(ledger: Ledger, segments: int = 1) -> None:
    """Job `j` with all its segments in the hands of decoders."""
    ledger.submit("j", job_spec())
    assert ledger.take("j", "split", "w")
    ledger.put_facts("j", source_info(), output_plan(), 5)
    for index in range(segments):
        ledger.add_segment("j", segment(index))
    ledger.split_done("j", segments, 10 * segments)
    ledger.let_go("j", "split", "w")
    for _ in range(segments):
        assert ledger.take_segment("j", most=segments) is not None


def done(ledger: Ledger, index: int, batches: int, losses: Losses) -> BatchMessage | None:
    """The decoder that has the segment is through."""
    return ledger.segment_done("j", index, ledger.running("j")[index], batches, losses)


def chunk(name: str) -> ChunkRecord:
    return ChunkRecord(key=f"c/{name}", pts=(0, 1, 2), size_bytes=1)


def track(ledger: Ledger, name: str) -> str | None:
    """Pass the turn of batch `name` on; the batch that is sent on by that."""
    message = batch_message(name)
    assert ledger.turn(message, "w").faces is not None
    parked = ledger.planned(message, "{}", "{}", 2)
    return parked.name if parked else None


def test_submitting_twice_is_one_job(ledger: Ledger) -> None:
    assert ledger.submit("j", job_spec()) is JobState.QUEUED
    ledger.take("j", "split", "w")
    assert ledger.submit("j", job_spec()) is JobState.SPLITTING
    assert ledger.live() == ["j"]


def test_a_failed_job_can_be_submitted_again(ledger: Ledger) -> None:
    ledger.submit("j", job_spec())
    ledger.fail("j", ErrorCode.TOO_DAMAGED, "broken")
    assert ledger.is_ending("j")
    with pytest.raises(TemporaryError):
        ledger.submit("j", job_spec())  # what it stored would be removed as the first one's
    assert ledger.cleaned("j")
    assert not ledger.cleaned("j")  # it counts once
    assert ledger.submit("j", job_spec()) is JobState.QUEUED
    view = ledger.view("j")
    assert view is not None
    assert view.message == ""
    assert ledger.ended() == []


def test_segments_are_given_out_in_order_and_bounded(ledger: Ledger) -> None:
    ledger.submit("j", job_spec())
    ledger.take("j", "split", "w")
    for index in (1, 0, 2):
        ledger.add_segment("j", segment(index))
    first, second = ledger.take_segment("j", 2), ledger.take_segment("j", 2)
    assert first is not None
    assert second is not None
    assert (first[0].index, second[0].index) == (0, 1)
    assert ledger.take_segment("j", 2) is None


def test_an_early_batch_is_parked_and_sent_on_by_its_predecessor(ledger: Ledger) -> None:
    begin(ledger)
    for name in ("0:0", "0:1"):
        assert ledger.send(batch_message(name), "compose", "w") == "go"
    early = ledger.turn(batch_message("0:1"), "w")
    assert early.plan is None
    assert early.faces is None
    assert ledger.parked("j") == {"0:1"}
    assert track(ledger, "0:0") == "0:1"
    assert track(ledger, "0:1") is None


def test_a_batch_that_was_tracked_keeps_its_plan(ledger: Ledger) -> None:
    begin(ledger)
    ledger.send(batch_message("0:0"), "compose", "w")
    ledger.planned(batch_message("0:0"), "the plan", "{}", 2)
    assert ledger.turn(batch_message("0:0"), "other").plan == "the plan"


def test_the_turn_passes_over_the_end_of_a_segment_and_over_empty_ones(ledger: Ledger) -> None:
    begin(ledger, segments=3)
    done(ledger, 1, 0, NONE)
    ledger.send(batch_message("2:0"), "compose", "w")
    ledger.turn(batch_message("2:0"), "w")
    ledger.send(batch_message("0:0"), "compose", "w")
    assert track(ledger, "0:0") is None
    released = done(ledger, 0, 1, NONE)
    assert released is not None
    assert released.name == "2:0"


def test_a_job_is_muxed_when_every_batch_has_its_chunk(ledger: Ledger) -> None:
    begin(ledger, segments=2)
    for name in ("0:0", "1:0"):
        ledger.send(batch_message(name, pool="composed"), "encode", "w")
        ledger.chunk_done(batch_message(name), chunk(name))
    done(ledger, 0, 1, NONE)
    assert ledger.state("j") is JobState.RUNNING
    done(ledger, 1, 1, NONE)
    assert ledger.state("j") is JobState.MUXING
    assert [record.key for record in ledger.chunks("j")] == ["c/0:0", "c/1:0"]


def test_a_chunk_counts_once(ledger: Ledger) -> None:
    begin(ledger)
    message = batch_message("0:0", pool="composed")
    ledger.send(message, "encode", "w")
    for _ in range(2):
        assert ledger.chunk_done(message, chunk("0:0"))
    view = ledger.view("j")
    assert view is not None
    assert view.done[3] == 3
    assert ledger.send(message, "infer", "w") == "done"
    assert not ledger.wanted("j", 0, 0)


def test_a_twin_of_a_message_finds_nothing_to_do(ledger: Ledger, redis: Connection) -> None:
    begin(ledger)
    message = batch_message("0:0")
    ledger.send(message, "infer", "w")
    redis.set(PREFIX + "first", "{}")
    assert ledger.enter(message, "infer", "first")
    assert not ledger.enter(message, "infer", "second")
    ledger.send(message, "compose", "first")
    assert not ledger.enter(message, "infer", "first")


def test_a_dead_workers_batch_may_be_taken_up_by_another(ledger: Ledger) -> None:
    begin(ledger)
    message = batch_message("0:0")
    ledger.send(message, "infer", "w")
    assert ledger.enter(message, "infer", "dead")
    assert ledger.enter(message, "infer", "heir")


def test_work_that_fails_too_often_ends_with_an_error(ledger: Ledger) -> None:
    begin(ledger)
    message = batch_message("0:0")
    ledger.send(message, "infer", "w")
    assert ledger.enter(message, "infer", "dead") == 1
    assert ledger.enter(message, "infer", "heir") == 2
    with pytest.raises(PermanentError, match="failed 2 times"):
        ledger.enter(message, "infer", "w")


def test_to_ask_for_work_again_since_the_answer_was_lost_is_no_other_try(ledger: Ledger) -> None:
    begin(ledger)
    message = batch_message("0:0")
    ledger.send(message, "infer", "w")
    assert [ledger.enter(message, "infer", "w") for _ in range(5)] == [1] * 5
    assert [ledger.take("j", "segment:0", "w") for _ in range(5)] == [1] * 5


def test_a_segment_given_back_after_some_progress_is_taken_up_as_if_for_the_first_time(
    ledger: Ledger,
) -> None:
    """What it was tried was forgotten by then; it is no try less than none."""
    begin(ledger)
    message = batch_message("0:0")
    ledger.send(message, "infer", "w")
    for _ in range(3):
        assert ledger.take("j", "segment:0", "w") == 1
        assert ledger.chunk_done(message, chunk("0:0"))
        ledger.let_go("j", "segment:0", "w", untried=True)
        assert ledger.take("j", "segment:0", "w") == 1
        ledger.return_segment("j", 0, ledger.running("j")[0], gave_back=True)
        assert ledger.take_segment("j", most=1) is not None


def test_parking_is_no_failed_try(ledger: Ledger) -> None:
    begin(ledger)
    message = batch_message("0:1")
    ledger.send(message, "compose", "w")
    for _ in range(5):
        assert ledger.enter(message, "compose", "w")
        ledger.turn(message, "w")


def test_a_forgotten_batch_has_its_segment_decoded_again(ledger: Ledger) -> None:
    begin(ledger)
    ledger.send(batch_message("0:0"), "infer", "w")
    done(ledger, 0, 1, NONE)
    ledger.forget_batch(batch_message("0:0"))
    again = ledger.take_segment("j", 1)
    assert again is not None
    assert again[1] == 2
    assert ledger.wanted("j", 0, 0)
    ledger.send(batch_message("0:0", pool="composed"), "encode", "w")
    ledger.chunk_done(batch_message("0:0"), chunk("0:0"))
    assert ledger.state("j") is JobState.RUNNING
    done(ledger, 0, 1, NONE)
    assert ledger.state("j") is JobState.MUXING


def test_a_batch_forgotten_while_its_segment_is_decoded_is_made_afterwards(ledger: Ledger) -> None:
    begin(ledger)
    ledger.send(batch_message("0:0"), "infer", "w")
    ledger.forget_batch(batch_message("0:0"))
    done(ledger, 0, 1, NONE)
    assert ledger.take_segment("j", 1) is not None
    assert ledger.state("j") is JobState.RUNNING


def test_batches_parked_behind_a_forgotten_one_give_up_their_slots(ledger: Ledger) -> None:
    begin(ledger, segments=2)
    for name in ("0:0", "0:1", "1:0"):
        ledger.send(batch_message(name), "compose", "w")
    for name in ("0:1", "1:0"):
        ledger.turn(batch_message(name), "w")
    done(ledger, 1, 1, NONE)
    ledger.forget_batch(batch_message("0:0"))
    assert list(ledger.flights("j")) == []
    assert ledger.parked("j") == set()
    done(ledger, 0, 2, NONE)
    again = [ledger.take_segment("j", 5), ledger.take_segment("j", 5)]
    assert [taken[0].index for taken in again if taken is not None] == [0, 1]


def test_a_late_decoder_of_an_old_attempt_changes_nothing(ledger: Ledger) -> None:
    begin(ledger)
    ledger.return_segment("j", 0, 1, gave_back=False)
    assert ledger.take_segment("j", 1) is not None
    ledger.segment_done("j", 0, 1, 7, NONE)
    assert ledger.running("j") == {0: 2}
    assert not ledger.segment_is_current("j", 0, 1)


def test_a_late_message_of_an_earlier_run_of_a_job_is_never_current(ledger: Ledger) -> None:
    begin(ledger)
    before = ledger.running("j")[0]
    ledger.fail("j", ErrorCode.TOO_DAMAGED, "broken")
    assert ledger.cleaned("j")
    begin(ledger)
    assert not ledger.segment_is_current("j", 0, before)


def in_another_slot(message: BatchMessage) -> BatchMessage:
    slot = message.slot.model_copy(update={"token": message.slot.token + 1})
    return message.model_copy(update={"slot": slot})


def test_a_message_about_a_slot_that_the_batch_is_no_longer_in_finds_nothing_to_do(
    ledger: Ledger,
) -> None:
    begin(ledger)
    old = batch_message("0:0")
    ledger.send(old, "infer", "w")
    assert [each.name for each in ledger.forget_batch(old)] == ["0:0"]
    new = in_another_slot(old)
    assert ledger.send(new, "infer", "w") == "go"
    assert not ledger.enter(old, "infer", "late")
    assert ledger.enter(new, "infer", "w")


def test_who_seemed_dead_hands_nothing_on_once_another_took_the_batch_up(
    ledger: Ledger,
) -> None:
    begin(ledger)
    message = batch_message("0:0")
    ledger.send(message, "compose", "decoder")
    assert ledger.enter(message, "compose", "starved")
    ledger.let_go("j", "0:0", "starved")
    assert ledger.enter(message, "compose", "heir")
    made = batch_message("0:0", pool="composed")
    assert ledger.send(made, "encode", "starved") == "theirs"
    assert ledger.has(message, "heir")
    assert ledger.send(made, "encode", "heir") == "go"
    # And what comes later still is of no use, but its slots are the heir's.
    assert ledger.send(made, "encode", "heir") == "go"  # an answer that was lost
    assert ledger.enter(made, "encode", "encoder")
    assert ledger.send(made, "encode", "starved") == "theirs"


def test_of_two_decoders_the_late_one_gives_back_a_slot_of_its_own_only(ledger: Ledger) -> None:
    begin(ledger)
    message = batch_message("0:0")
    ledger.send(message, "infer", "decoder")
    assert ledger.enter(message, "infer", "w")
    assert ledger.send(message, "infer", "twin") == "theirs"
    assert ledger.send(in_another_slot(message), "infer", "twin") == "stale"


def test_what_an_ended_job_had_is_taken_away_when_nobody_who_lives_has_anything_of_it_in_hands(
    ledger: Ledger, redis: Connection
) -> None:
    begin(ledger)
    message = batch_message("0:0")
    ledger.send(message, "infer", "decoder")
    for worker, item in (("batcher", "0:0"), ("muxer", "segment:0")):
        redis.set(PREFIX + worker, "{}")
        assert (
            ledger.enter(message, "infer", worker)
            if item == "0:0"
            else ledger.take("j", item, worker)
        )
    ledger.cancel("j")
    assert ledger.to_clean(5) == []
    ledger.put_down("j", "0:0", "batcher")
    assert ledger.to_clean(5) == []
    redis.delete(PREFIX + "muxer")  # it died
    assert ledger.to_clean(5) == ["j"]
    assert ledger.cleaned("j")
    ledger.put_down("j", "segment:0", "muxer", cpu_ms_decode=3)
    assert ledger.to_clean(5) == []


def test_a_late_order_to_replace_a_batch_that_was_not_given_up_does_nothing(
    ledger: Ledger,
) -> None:
    begin(ledger)
    assert not ledger.take("j", "replace:0:0", "w")
    ledger.replace(ReplaceMessage(job="j", segment=0, batch=0, pts=(0,), why="x"))
    assert ledger.take("j", "replace:0:0", "w")


def test_a_job_is_decoded_from_when_its_first_segment_is_taken_up(ledger: Ledger) -> None:
    def decoding_ms() -> int | None:
        view = ledger.view("j")
        assert view is not None
        return view.decoding_ms

    begin(ledger, segments=2)
    assert decoding_ms() is None
    ledger.take("j", "segment:0", "w")
    first = decoding_ms()
    assert first is not None
    ledger.take("j", "segment:1", "w")
    assert decoding_ms() == first


def test_losses_lower_what_is_expected(ledger: Ledger) -> None:
    begin(ledger)
    done(ledger, 0, 1, Losses(lost=3, repaired=1, dropped=2, concealed=4))
    view = ledger.view("j")
    assert view is not None
    assert view.expected == 5
    assert ledger.losses("j") == (3, 1, 2, 4)


def test_nothing_happens_to_a_job_that_ended(ledger: Ledger) -> None:
    begin(ledger)
    ledger.fail("j", ErrorCode.CANCELLED, "enough")
    assert ledger.state("j") is JobState.CANCELLED
    assert ledger.send(batch_message("0:0"), "infer", "w") == "stale"
    assert not ledger.finish("j", JobResult(key="k", frames=1))
    assert ledger.live() == []
    assert ledger.ended() == ["j"]


def test_a_job_that_was_cleaned_up_after_leaves_only_its_record_and_that_expires(
    ledger: Ledger, redis: Connection
) -> None:
    begin(ledger)
    ledger.send(batch_message("0:0"), "infer", "w")
    ledger.put_faces(batch_message("0:0"), "[]")
    ledger.finish("j", JobResult(key="k", frames=1))
    ledger.cleaned("j")
    keys = {str(key) for key in redis.scan_iter(match="df:job*")}
    assert keys == {"df:job:j", "df:job:j:events"}
    assert all(0 < int(redis.ttl(key)) <= 60 + GRACE_S for key in keys)


def test_a_batch_that_moved_on_is_not_forgotten(ledger: Ledger) -> None:
    begin(ledger)
    late = batch_message("0:0")
    ledger.send(late, "infer", "w")
    ledger.send(batch_message("0:0", pool="composed"), "encode", "w")
    assert ledger.forget_batch(late) == []
    assert [flight.stage for flight in ledger.flights("j")] == ["encode"]


def test_frames_that_are_lost_and_made_anew_count_once(ledger: Ledger) -> None:
    begin(ledger)
    for stage in ("infer", "compose", "encode"):
        ledger.send(batch_message("0:0"), stage, "w")
        ledger.forget_batch(batch_message("0:0"))
        view = ledger.view("j")
        assert view is not None
        assert view.done == (0, 0, 0, 0)
    # Those parked behind it are lost with it.
    for name in ("0:0", "0:1"):
        ledger.send(batch_message(name), "compose", "w")
    ledger.turn(batch_message("0:1"), "w")
    ledger.forget_batch(batch_message("0:0"))
    for name in ("0:0", "0:1"):
        ledger.send(batch_message(name), "infer", "w")
    view = ledger.view("j")
    assert view is not None
    assert view.done == (6, 0, 0, 0)


def test_a_batch_with_a_chunk_is_not_forgotten(ledger: Ledger) -> None:
    begin(ledger)
    message = batch_message("0:0", pool="composed")
    ledger.send(message, "encode", "w")
    done(ledger, 0, 1, NONE)
    ledger.chunk_done(message, chunk("0:0"))
    assert ledger.forget_batch(message) == []
    assert ledger.state("j") is JobState.MUXING


def test_all_that_is_forgotten_is_told(ledger: Ledger) -> None:
    begin(ledger)
    for name in ("0:0", "0:1"):
        ledger.send(batch_message(name), "compose", "w")
    ledger.turn(batch_message("0:1"), "w")
    told = ledger.forget_batch(batch_message("0:0"))
    assert sorted(message.name for message in told) == ["0:0", "0:1"]


def test_work_that_fails_once_too_often_ends_with_its_last_reason(ledger: Ledger) -> None:
    begin(ledger)
    ledger.send(batch_message("0:0"), "infer", "w")
    for worker in ("a", "b"):
        assert ledger.enter(batch_message("0:0"), "infer", worker)
        why = TemporaryError(ErrorCode.NO_SPACE, f"The disk of {worker} is full.")
        ledger.let_go("j", "0:0", worker, why)
    with pytest.raises(PermanentError, match="The disk of b is full") as caught:
        ledger.enter(batch_message("0:0"), "infer", "c")
    assert caught.value.code is ErrorCode.NO_SPACE


def test_progress_forgives_what_went_wrong_before(ledger: Ledger) -> None:
    begin(ledger)
    for attempt in (1, 2, 3, 4):
        name = f"0:{attempt}"
        assert ledger.take("j", "segment:0", "w")
        ledger.return_segment("j", 0, attempt, gave_back=False)
        ledger.send(batch_message(name, pool="composed"), "encode", "w")
        ledger.chunk_done(batch_message(name), chunk(name))
        assert ledger.take_segment("j", 1) is not None


def test_a_job_submitted_again_finds_nothing_of_the_failed_one(
    ledger: Ledger, redis: Connection
) -> None:
    begin(ledger)
    ledger.send(batch_message("0:0"), "infer", "w")
    ledger.fail("j", ErrorCode.STAGE_FAILED, "broken")
    ledger.cleaned("j")
    ledger.submit("j", job_spec())
    assert [str(key) for key in redis.scan_iter("df:job:j:*")] == ["df:job:j:events"]
    assert redis.ttl("df:job:j:events") == -1
    ledger.take("j", "split", "w")
    assert ledger.add_segment("j", segment(0))
    assert ledger.take_segment("j", 1) is not None


def test_a_late_worker_writes_nothing_about_a_job_that_was_dropped(
    ledger: Ledger, redis: Connection
) -> None:
    begin(ledger)
    ledger.fail("j", ErrorCode.CANCELLED, "stopped")
    ledger.drop("j")
    message = batch_message("0:0")
    ledger.put_faces(message, "[]")
    ledger.note_engine("j", "infer", "e")
    ledger.let_go("j", "0:0", "w", TemporaryError(ErrorCode.BUSY, "late"))
    ledger.add("j", cpu_ms_infer=1.0)
    assert not ledger.enter(message, "infer", "w")
    assert [str(key) for key in redis.scan_iter("df:job:*")] == []


def test_lists_show_each_owner_its_own_jobs_newest_first_by_state(
    ledger: Ledger, redis: Connection
) -> None:
    for number, owner in enumerate(("ann", "bob", "ann", "", "ann")):
        ledger.submit(f"j{number}", job_spec(), owner)
    ledger.take("j2", "split", "w")
    ledger.cancel("j0")
    everything = ledger.listed(None).jobs
    assert sorted(everything, reverse=True) == ["j4", "j3", "j2", "j1", "j0"]
    times = [view.submitted_ms for view in ledger.views(everything)]
    assert times == sorted(times, reverse=True)
    assert set(ledger.listed("ann").jobs) == {"j4", "j2", "j0"}
    assert ledger.listed("ann", "splitting").jobs == ["j2"]
    assert ledger.listed("ann", "cancelled").jobs == ["j0"]
    assert set(ledger.listed("ann", "live").jobs) == {"j4", "j2"}
    assert ledger.listed("eve") == ([], None)
    ledger.drop("j2")
    assert ledger.listed("ann", "splitting").jobs == []
    redis.delete("df:job:j4")  # expired, with nobody there to bury it
    ledger.listed("ann")
    assert ledger.listed("ann").jobs == ["j0"]


def test_pages_hold_every_job_once_also_when_all_came_in_the_same_millisecond(
    ledger: Ledger, redis: Connection
) -> None:
    names = {f"j{number:02}" for number in range(23)}
    for name in names:
        ledger.submit(name, job_spec())
    redis.zadd("df:index:list:all:any", dict.fromkeys(names, 1_700_000_000_000))
    found: list[str] = []
    cursor = None
    while True:
        page = ledger.listed(None, cursor=cursor, count=5)
        found += page.jobs
        cursor = page.cursor
        if cursor is None:
            break
        ledger.submit(f"late{len(found)}", job_spec())
    assert found == sorted(names, reverse=True)
    with pytest.raises(ValueError, match="not a cursor"):
        ledger.listed(None, cursor="x")


def test_a_quota_counts_what_has_not_ended_and_ids_belong_to_their_owner(ledger: Ledger) -> None:
    ledger.submit("a", job_spec(), "ann", most_live=2)
    ledger.submit("b", job_spec(), "ann", most_live=2)
    with pytest.raises(PermanentError, match="quota"):
        ledger.submit("c", job_spec(), "ann", most_live=2)
    assert ledger.state("c") is None
    assert ledger.submit("a", job_spec(), "ann", most_live=2) == "queued"  # the same job again
    ledger.submit("d", job_spec(), "bob", most_live=2)
    with pytest.raises(PermanentError, match="exists"):
        ledger.submit("d", job_spec(), "ann")
    ledger.cancel("a")
    ledger.submit("c", job_spec(), "ann", most_live=2)


def test_events_tell_every_state_in_order_and_can_be_resumed(
    ledger: Ledger, redis: Connection
) -> None:
    bell = redis.pubsub(ignore_subscribe_messages=True)
    bell.subscribe("df:bell")
    begin(ledger)
    ledger.fail("j", ErrorCode.STAGE_FAILED, "broken")
    events = ledger.events("j")
    assert events[0].data.startswith("queued")
    assert events[-1].data.startswith("failed")
    assert [e.data.split()[0] for e in events if e.kind == "state"] == list(
        dict.fromkeys(event.data.split()[0] for event in events)
    )
    assert ledger.events("j", events[1].id) == events[2:]
    rung = [bell.get_message(timeout=1.0) for _ in range(len(events) + 1)]
    assert {message["data"] for message in rung if message} == {"j"}
    bell.close()
    assert 0 < int(redis.ttl("df:job:j:events")) <= 60


def foreign(name: str = "0:0") -> str:
    """A batch as a release of tomorrow might write it."""
    body = json.loads(batch_message(name).model_dump_json())
    body |= {"v": 99, "layout": {"kind": "tomorrow's"}, "colour": "red"}
    body["slot"]["device"] = 3
    return json.dumps(body)


def test_a_batch_of_another_release_is_kept_track_of_and_sent_on_as_it_came(
    ledger: Ledger, redis: Connection
) -> None:
    begin(ledger)
    for name in ("0:0", "0:1"):
        ledger.send(batch_message(name), "compose", "w")
    late = redis.hget("df:job:j:flight", "0:1")
    stage, worker, frames, _ = str(late).split(" ", 3)
    redis.hset("df:job:j:flight", "0:1", f"{stage} {worker} {frames} {foreign('0:1')}")
    [flight] = [each for each in ledger.flights("j") if each.name == "0:1"]
    assert isinstance(flight.message, ForeignBatch)
    assert json.loads(flight.message.model_dump_json()) == json.loads(foreign("0:1"))
    assert flight.message.slot.lease() == batch_message("0:1").slot.lease()

    ledger.enter(batch_message("0:1"), "compose", "w2")
    redis.hset("df:job:j:parked", "0:1", foreign("0:1"))
    ledger.enter(batch_message("0:0"), "compose", "w1")
    ledger.put_faces(batch_message("0:0"), "[]")
    sent_on = ledger.planned(batch_message("0:0"), "{}", "{}", 0)
    assert sent_on is not None
    assert json.loads(sent_on.model_dump_json()) == json.loads(foreign("0:1"))
    assert [each.name for each in ledger.forget_batch(sent_on)] == ["0:1"]


def test_what_a_newer_release_wrote_about_a_job_can_be_read(
    ledger: Ledger, redis: Connection
) -> None:
    begin(ledger)
    for field in ("spec", "source", "output"):
        known = json.loads(str(redis.hget("df:job:j", field)))
        redis.hset("df:job:j", field, json.dumps(known | {"tomorrows": 1}))
    assert ledger.facts("j").spec == ledger.spec("j")
    view = ledger.view("j")
    assert view is not None
    assert view.name == ledger.spec("j").name
