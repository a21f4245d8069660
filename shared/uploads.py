"""Uploads that are under way: sources that come before their job. An upload's id becomes its job's.

So one upload is one job, a repeated submit is the same job, and nothing is copied in the store.
"""

from __future__ import annotations

import hashlib
import secrets

from pydantic import Field

from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model
from shared.names import source_key
from shared.redisdb import Connection

PREFIX = "df:upload:"
OPEN = "df:uploads:"
"""Before an owner: ids of their uploads, some of them gone."""
LIFE_S = 24 * 3600
REFERENCE = "upload:"
"""A job spec's source `upload:ID`."""


class Upload(Model):
    """`multipart` is the store's own id of an upload that goes there directly."""

    id: str
    owner: str
    key: str
    name: str = ""
    size_bytes: int = Field(default=0, description="as announced; 0: not")
    multipart: str = ""
    stored: bool = False
    stored_bytes: int = 0


class Uploads:
    """The uploads of one Redis; each is forgotten after LIFE_S, its bytes some time later."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def begin(self, owner: str, name: str, size_bytes: int) -> Upload:
        """A new upload; nothing is stored yet."""
        made = secrets.token_hex(16)
        return Upload(
            id=made,
            owner=owner,
            key=source_key(made, suffix_of(name)),
            name=name,
            size_bytes=size_bytes,
        )

    def named(self, upload: Upload, idempotency_key: str) -> Upload:
        """The upload under the id that this key of its owner always means."""
        text = f"{upload.owner}\nupload\n{idempotency_key}"
        made = hashlib.sha256(text.encode()).hexdigest()[:32]
        return upload.model_copy(
            update={"id": made, "key": source_key(made, suffix_of(upload.name))}
        )

    def enter(self, upload: Upload) -> bool:
        """Write down a new one; False when there is one with this id."""
        pipeline = self._redis.pipeline()
        pipeline.set(PREFIX + upload.id, upload.model_dump_json(), ex=LIFE_S, nx=True)
        pipeline.sadd(OPEN + upload.owner, upload.id)
        pipeline.expire(OPEN + upload.owner, LIFE_S)
        return bool(pipeline.execute()[0])

    def count(self, owner: str) -> int:
        """How many of an owner are open: neither jobs nor dropped nor forgotten by now."""
        known = sorted(str(each) for each in self._redis.smembers(OPEN + owner))
        pipeline = self._redis.pipeline(transaction=False)
        for each in known:
            pipeline.exists(PREFIX + each)
        found = pipeline.execute() if known else []
        gone = [each for each, there in zip(known, found, strict=True) if not there]
        if gone:
            self._redis.srem(OPEN + owner, *gone)
        return len(known) - len(gone)

    def keep(self, upload: Upload) -> None:
        """Write down how it stands."""
        self._redis.set(PREFIX + upload.id, upload.model_dump_json(), ex=LIFE_S)

    def find(self, upload: str, owner: str) -> Upload:
        """Raises PermanentError NOT_FOUND when there is none, or it is another's."""
        found = self.look(upload)
        if found is None or found.owner != owner:
            raise PermanentError(
                ErrorCode.NOT_FOUND, "There is no such upload, or it is not yours."
            )
        return found

    def look(self, upload: str) -> Upload | None:
        """How it stands; None when there is none."""
        row = self._redis.get(PREFIX + upload)
        return None if row is None else Upload.read_kept(str(row))

    def exists(self, upload: str) -> bool:
        """True while somebody may still submit it."""
        return bool(self._redis.exists(PREFIX + upload))

    def forget(self, upload: str) -> None:
        """Idempotent."""
        self._redis.delete(PREFIX + upload)


def suffix_of(name: str) -> str:
    """`.mp4` of "clip.mp4": for people who look into the store; "" when it is no plain one."""
    stem, dot, suffix = name.rpartition(".")
    plain = bool(stem and dot) and suffix.isascii() and suffix.isalnum() and len(suffix) <= 7
    return f".{suffix.lower()}" if plain else ""
