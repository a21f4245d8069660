"""API keys: who may do what, kept in Redis by their hash only.

A key is 32 random bytes, so one SHA-256 is enough: there is nothing to guess that a slow hash would
protect. What a person loses can't be read back; they get another key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from enum import StrEnum

from pydantic import Field

from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model
from shared.redisdb import Connection

KEYS = "df:keys"
SESSIONS = "df:session:"
SESSION_S = 12 * 3600
PREFIX = "df_"
OWNER = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Role(StrEnum):
    """What a key allows. `read` and `submit` are about its owner's jobs, `admin` about all."""

    SUBMIT = "submit"
    READ = "read"
    METRICS = "metrics"
    ADMIN = "admin"


class ApiKey(Model):
    """What is kept of a key. `id` names it in lists and logs and opens nothing."""

    id: str
    owner: str = Field(description="tenant; keys of one owner see the same jobs")
    roles: tuple[Role, ...]
    per_minute: int = Field(default=600, ge=1, description="requests")
    most_live: int = Field(default=100, ge=0, description="jobs not ended; 0: any number")
    most_bytes: int = Field(default=0, ge=0, description="of one upload; 0: as of any source")
    webhook_secret: str = Field(
        default="", description="signs webhooks; readable, since both sides have to know it"
    )
    created_ms: int = 0

    def allows(self, role: Role) -> bool:
        """Admins may do everything."""
        return role in self.roles or Role.ADMIN in self.roles


class Keys:
    """The keys and browser sessions of one Redis."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def add(self, owner: str, roles: tuple[Role, ...], **limits: int) -> tuple[ApiKey, str]:
        """A new key: what is kept, and the secret, which nobody can read again.

        Raises PermanentError BAD_OPTION for an owner that is no short lower-case name.
        """
        if not OWNER.fullmatch(owner):
            raise PermanentError(
                ErrorCode.BAD_OPTION,
                f"The owner {owner!r} is not a name of lower-case letters, digits, '.', '_', '-'.",
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        # The owner's, if there is one: which of their keys is revoked is no matter to receivers.
        signs = self.webhook_secret(owner) or secrets.token_urlsafe(32)
        record = ApiKey(
            id=secrets.token_hex(4),
            owner=owner,
            roles=roles,
            webhook_secret=signs,
            created_ms=int(time.time() * 1000),
            **limits,
        )
        self._redis.hset(KEYS, _hash(secret), record.model_dump_json())
        return record, secret

    def has(self, secret: str) -> bool:
        """True when the key is known."""
        return self.find(secret) is not None

    def find(self, secret: str) -> ApiKey | None:
        """What a key allows, None when it is unknown or was revoked."""
        return self._record(_hash(secret))

    def all(self) -> list[ApiKey]:
        """All keys, oldest first."""
        rows = self._redis.hvals(KEYS)
        found = [ApiKey.read_kept(str(row)) for row in rows]
        return sorted(found, key=lambda key: (key.created_ms, key.id))

    def webhook_secret(self, owner: str) -> str:
        """What signs webhooks of the jobs that an owner submits now: of the oldest key that has
        one, "" when none has. Every key that is added takes it over."""
        signing = (key.webhook_secret for key in self.all() if key.owner == owner)
        return next(filter(None, signing), "")

    def revoke(self, key_id: str) -> bool:
        """The key and its sessions open nothing any more. False when there is none."""
        for name, row in self._redis.hgetall(KEYS).items():
            if ApiKey.read_kept(str(row)).id == key_id:
                return bool(self._redis.hdel(KEYS, str(name)))
        return False

    def begin_session(self, secret: str) -> str:
        """A browser's stand-in for a key, for SESSION_S; ends with its key."""
        token = secrets.token_urlsafe(32)
        self._redis.set(SESSIONS + _hash(token), _hash(secret), ex=SESSION_S)
        return token

    def of_session(self, token: str) -> ApiKey | None:
        """What a session's key allows."""
        name = self._redis.get(SESSIONS + _hash(token))
        return None if name is None else self._record(str(name))

    def end_session(self, token: str) -> None:
        """The session opens nothing any more."""
        self._redis.delete(SESSIONS + _hash(token))

    def _record(self, name: str) -> ApiKey | None:
        row = self._redis.hget(KEYS, name)
        return None if row is None else ApiKey.read_kept(str(row))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
