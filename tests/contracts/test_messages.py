"""Facts about what travels."""

from __future__ import annotations

import json
import pickle

import pytest

from shared.errors import DualfaceError, ErrorCode, PermanentError, TemporaryError
from shared.messages import (
    LARGEST_BYTES,
    VERSION,
    BatchMessage,
    SegmentMessage,
    UnknownVersionError,
    parse,
)
from shared.settings import Settings
from tests.builders import batch_message, segment


def largest_batch() -> BatchMessage:
    """64 frames with the longest times, names and numbers there can be."""
    small = batch_message("999999:999999", job="f" * 64)
    slot = small.slot.model_copy(update={"holder": "h" * 100, "token": 2**53, "arena": "a" * 64})
    pts = tuple(-(2**63) + frame for frame in range(64))
    return small.model_copy(update={"pts": pts, "slot": slot, "decoded_ns": 2**63 - 1})


def test_a_stage_message_stays_under_8_kib() -> None:
    assert len(largest_batch().model_dump_json()) < LARGEST_BYTES == 8192


def test_a_stage_message_holds_no_pixels() -> None:
    fields = set(json.loads(batch_message().model_dump_json()))
    assert fields == {"v", "job", "segment", "batch", "layout", "pts", "slot", "decoded_ns"}


def test_a_message_survives_the_wire() -> None:
    for message in (
        largest_batch(),
        SegmentMessage(job="j", segment=segment(3), batch_frames=9),
    ):
        assert parse(type(message), json.loads(message.model_dump_json())) == message


def test_a_message_of_another_release_is_known_as_such() -> None:
    other = {"v": VERSION + 1, "anything": "new"}
    body = json.loads(batch_message().model_dump_json()) | other
    with pytest.raises(UnknownVersionError, match=f"version {VERSION + 1}"):
        parse(BatchMessage, body)


@pytest.mark.parametrize(
    "change", [{"v": "1"}, {"extra": 1}, {"pts": []}, {"pts": ["x"]}, {"slot": None}]
)
def test_what_is_no_message_is_refused_with_the_reason(change: dict[str, object]) -> None:
    body = json.loads(batch_message().model_dump_json()) | change
    with pytest.raises(PermanentError, match="not a BatchMessage"):
        parse(BatchMessage, body)


@pytest.mark.parametrize(
    "error",
    [
        PermanentError(ErrorCode.TOO_DAMAGED, "Broken."),
        TemporaryError(ErrorCode.BUSY, "Later.", 2.5),
    ],
)
def test_errors_survive_pickling(error: DualfaceError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (back.code, back.message) == (error.code, error.message)
    assert getattr(back, "delay_s", None) == getattr(error, "delay_s", None)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Settings.model_validate(
        {"redis_url": "redis://x", "arena_mib": 99, "model_folders": ["/a", "/b"], "lease_s": 7.5}
    )
    monkeypatch.setenv("DUALFACE_REDIS_URL", "redis://x")
    monkeypatch.setenv("DUALFACE_ARENA_MIB", "99")
    monkeypatch.setenv("DUALFACE_MODEL_FOLDERS", '["/a", "/b"]')
    monkeypatch.setenv("DUALFACE_LEASE_S", "7.5")
    assert Settings() == chosen
