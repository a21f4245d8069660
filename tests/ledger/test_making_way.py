"""What decode learns from the ledger when it finds no slot, on a real server."""

from __future__ import annotations

import pytest

from shared.ledger import ChunkRecord, Ledger, Losses
from shared.messages import BatchMessage
from shared.redisdb import Connection
from tests.builders import batch_message, job_spec, output_plan, segment, source_info


@pytest.fixture
def ledger(redis: Connection) -> Ledger:
    """Job `j` with two segments in the hands of decoders."""
    made = Ledger(redis, retention_s=60, attempts=2)
    made.submit("j", job_spec())
    assert made.take("j", "split", "w")
    made.put_facts("j", source_info(), output_plan(), 5)
    for index in range(2):
        made.add_segment("j", segment(index))
    made.split_done("j", 2, 20)
    made.let_go("j", "split", "w")
    for _ in range(2):
        assert made.take_segment("j", most=2)
    return made


def fly(ledger: Ledger, name: str, arena: str = "cpu0") -> BatchMessage:
    message = batch_message(name)
    message = message.model_copy(update={"slot": message.slot.model_copy(update={"arena": arena})})
    assert ledger.send(message, "compose", "w") == "go"
    return message


def park(ledger: Ledger, name: str, arena: str = "cpu0") -> None:
    assert ledger.turn(fly(ledger, name, arena), "w").faces is None


def test_the_last_of_those_that_wait_for_a_batch_without_a_slot_makes_way(ledger: Ledger) -> None:
    for name in ("0:1", "1:0", "0:10", "1:2", "0:9"):
        park(ledger, name)
    told = []
    while (parked := ledger.forget_parked("j", 0, 0, "cpu0")) is not None:
        told.append(parked.name)
    assert told == ["1:2", "1:0", "0:10", "0:9", "0:1"]
    assert ledger.parked("j") == set()
    assert all(ledger.wanted("j", 1, batch) for batch in (0, 2))
    attempt = ledger.running("j")[1]
    assert ledger.segment_done("j", 1, attempt, 3, Losses(0, 0, 0, 0)) is None
    again = ledger.take_segment("j", 2)
    assert again is not None
    assert again[0].index == 1, "decoded once more"


def test_slots_of_another_arena_are_no_help(ledger: Ledger) -> None:
    park(ledger, "0:1", "gpu0")
    assert ledger.forget_parked("j", 0, 0, "cpu0") is None
    assert ledger.forget_parked("j", 0, 0, "gpu0") is not None


def test_nothing_makes_way_for_a_batch_whose_turn_it_is_not(ledger: Ledger) -> None:
    park(ledger, "0:2")
    assert ledger.forget_parked("j", 0, 1, "cpu0") is None
    assert ledger.forget_parked("j", 1, 0, "cpu0") is None


def test_nothing_makes_way_while_some_of_the_job_still_moves(ledger: Ledger) -> None:
    park(ledger, "0:2")
    moving = fly(ledger, "0:1")
    assert ledger.forget_parked("j", 0, 0, "cpu0") is None
    ledger.turn(moving, "w")
    assert ledger.forget_parked("j", 0, 0, "cpu0") is not None


def test_a_decoder_learns_that_the_batch_whose_turn_it_is_was_lost_behind_it(
    ledger: Ledger,
) -> None:
    assert not ledger.lost_behind("j", 0, 0), "it is at that batch itself"
    first = fly(ledger, "0:0")
    assert not ledger.lost_behind("j", 0, 1)
    assert ledger.forget_batch(first)
    assert ledger.lost_behind("j", 0, 1)
    assert not ledger.lost_behind("j", 1, 1), "another decoder makes it"
    fly(ledger, "0:0")
    assert not ledger.lost_behind("j", 0, 1)


def test_a_batch_with_a_chunk_is_not_lost(ledger: Ledger) -> None:
    message = fly(ledger, "0:0")
    ledger.chunk_done(message, ChunkRecord(key="c", pts=message.pts, size_bytes=1))
    assert not ledger.lost_behind("j", 0, 1)
