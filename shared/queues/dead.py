"""Messages that nobody here can read, kept with the reason until a person looks at them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

from pydantic import ValidationError

from shared.jobs import Model
from shared.redisdb import Connection

DEAD = "df:dead"
"""Hash id -> letter, and beside it the ids in order of arrival."""
ORDER = "df:dead:order"

MOST = 1000
KEPT_S = 30 * 86400
LARGEST_BODY = 16 * 1024
"""Characters of a body that are kept: twice the largest message there is."""


class DeadLetter(Model):
    """A message that could not be read. `body` is its JSON text, `at` seconds of the epoch."""

    id: str
    task: str
    queue: str
    body: str
    reason: str
    at: float


class DeadLetters:
    """The list in Redis: the latest MOST, for KEPT_S after the last one came."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def put(self, task: str, queue: str, body: str, reason: str) -> DeadLetter:
        """Keep a message; the oldest go when there are too many."""
        letter = DeadLetter(
            id=uuid.uuid4().hex[:12],
            task=task,
            queue=queue,
            body=body[:LARGEST_BODY],
            reason=reason,
            at=round(time.time(), 3),
        )
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(DEAD, letter.id, letter.model_dump_json())
            pipe.rpush(ORDER, letter.id)
            for key in (DEAD, ORDER):
                pipe.expire(key, KEPT_S)
            pipe.execute()
        while int(self._redis.llen(ORDER)) > MOST:
            oldest = self._redis.lpop(ORDER)
            if oldest is None:
                break
            self._redis.hdel(DEAD, str(oldest))
        return letter

    def __len__(self) -> int:
        """How many there are."""
        return int(self._redis.llen(ORDER))

    def all(self) -> Iterator[DeadLetter]:
        """Oldest first."""
        for letter_id in self._redis.lrange(ORDER, 0, -1):
            letter = self.find(str(letter_id))
            if letter is not None:
                yield letter

    def find(self, letter_id: str) -> DeadLetter | None:
        """One letter, None when it is not (or no longer) there."""
        text = self._redis.hget(DEAD, letter_id)
        try:
            return None if text is None else DeadLetter.model_validate_json(str(text))
        except ValidationError:
            return None  # another release's

    def drop(self, letter_id: str) -> bool:
        """Forget a letter; False when it is not there."""
        self._redis.lrem(ORDER, 0, letter_id)
        return bool(self._redis.hdel(DEAD, letter_id))
