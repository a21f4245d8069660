"""`dualface dead`: messages that no worker could read."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from client.stack import reach
from shared.errors import ErrorCode, PermanentError
from shared.queues import CeleryOutbox, DeadLetter, DeadLetters, make_app
from shared.settings import Settings


def list_command(settings: Settings, *, as_json: bool) -> int:
    """All of them, oldest first."""
    redis, _ = reach(settings)
    letters = list(DeadLetters(redis).all())
    console = Console(soft_wrap=True, markup=False)
    if as_json:
        print(json.dumps([letter.model_dump() for letter in letters]))
        return 0
    if not letters:
        console.print("No dead letters.")
        return 0
    table = Table("id", "came", "queue", "task", "reason")
    for letter in letters:
        table.add_row(letter.id, _when(letter), letter.queue, letter.task, letter.reason)
    console.print(table)
    return 0


def show_command(settings: Settings, letter_id: str) -> int:
    """One of them, with its body."""
    redis, _ = reach(settings)
    letter = _find(DeadLetters(redis), letter_id)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for name, value in (
        ("id", letter.id),
        ("came", _when(letter)),
        ("queue", letter.queue),
        ("task", letter.task),
        ("reason", letter.reason),
        ("body", letter.body),
    ):
        console.print(f"{name + ':':8} {value}")
    return 0


def requeue_command(settings: Settings, letter_id: str) -> int:
    """Send it to its queue once more, for example after an upgrade."""
    redis, url = reach(settings)
    letters = DeadLetters(redis)
    letter = _find(letters, letter_id)
    try:
        body = json.loads(letter.body)
    except ValueError:
        body = None
    if not letter.task or body is None:
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"The letter {letter.id} is no task with a JSON body; it can only be dropped.",
        )
    CeleryOutbox(make_app(url)).send_body(letter.task, body, letter.queue)
    letters.drop(letter.id)
    print(f"{letter.id} went to {letter.queue} again.")
    return 0


def drop_command(settings: Settings, letter_id: str) -> int:
    """Forget it."""
    redis, _ = reach(settings)
    letters = DeadLetters(redis)
    letters.drop(_find(letters, letter_id).id)
    print(f"{letter_id} is forgotten.")
    return 0


def _find(letters: DeadLetters, letter_id: str) -> DeadLetter:
    letter = letters.find(letter_id)
    if letter is None:
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"There is no dead letter {letter_id}; see `dualface dead list`."
        )
    return letter


def _when(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
