"""`dualface dead`, against a real Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.dead import drop_command, list_command, requeue_command, show_command
from shared.errors import PermanentError
from shared.messages import MuxMessage
from shared.queues import DeadLetters
from shared.queues.dead import MOST
from shared.redisdb import Connection
from shared.settings import Settings

BODY = MuxMessage(job="j").model_dump_json()


@pytest.fixture
def settings(redis: Connection, redis_url: str, tmp_path: Path) -> Settings:
    assert redis.dbsize() == 0
    return Settings(redis_url=redis_url, state_dir=tmp_path)


def test_letters_are_listed_and_shown_with_their_reason(
    redis: Connection, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = DeadLetters(redis).put("encode.mux", "mux", BODY, "version 2")
    assert list_command(settings, as_json=True) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed == letter.model_dump()
    assert list_command(settings, as_json=False) == show_command(settings, letter.id) == 0
    said = capsys.readouterr().out
    assert letter.id in said
    assert "version 2" in said
    assert '"job":"j"' in said


def test_a_letter_is_sent_to_its_queue_once_more(redis: Connection, settings: Settings) -> None:
    letters = DeadLetters(redis)
    letter = letters.put("encode.mux", "mux", BODY, "version 2")
    assert requeue_command(settings, letter.id) == 0
    assert redis.llen("mux") == 1
    assert list(letters.all()) == []


@pytest.mark.parametrize(("task", "body"), [("", BODY), ("encode.mux", "\\x80pickle")])
def test_what_is_no_task_can_only_be_dropped(
    redis: Connection, settings: Settings, task: str, body: str
) -> None:
    letter = DeadLetters(redis).put(task, "mux", body, "unreadable")
    with pytest.raises(PermanentError, match="dropped"):
        requeue_command(settings, letter.id)
    assert drop_command(settings, letter.id) == 0
    with pytest.raises(PermanentError, match="dead list"):
        show_command(settings, letter.id)


def test_the_oldest_go_when_there_are_too_many_and_all_go_in_time(redis: Connection) -> None:
    letters = DeadLetters(redis)
    first = letters.put("t", "q", "{}", "r")
    for number in range(MOST):
        letters.put("t", "q", "{}", f"r{number}")
    kept = list(letters.all())
    assert len(kept) == MOST
    assert first.id not in {letter.id for letter in kept}
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(match="df:dead*"))


def test_without_a_stack_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="dualface up"):
        list_command(Settings(state_dir=tmp_path, redis_url=""), as_json=False)
