"""`dualface keys`: who may use the API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from client.remote import reported
from client.showing import Out, table
from client.stack import reach
from shared.errors import ErrorCode, PermanentError
from shared.keys import ApiKey, Keys, Role
from shared.settings import Settings


def add_command(
    settings: Settings,
    owner: str,
    roles: Sequence[str],
    per_minute: int,
    most_live: int,
    most_bytes: int,
    *,
    as_json: bool,
) -> int:
    """Make a key; its secret can't be shown again."""
    found = tuple(dict.fromkeys(_role(role) for role in roles))
    limits = {"per_minute": per_minute, "most_live": most_live, "most_bytes": most_bytes}
    out = Out(as_json=as_json)

    def work() -> int:
        redis, _ = reach(settings)
        keys = Keys(redis)
        key, secret = keys.add(owner, found, **limits)
        if as_json:
            out.line({**_shown(key), "secret": secret, "webhook_secret": key.webhook_secret})
            return 0
        out.note(f"Webhooks for {key.owner} are signed with {key.webhook_secret}")
        out.note(f"Key {key.id} of {key.owner} ({_roles(key)}). It is shown this once:")
        print(secret)
        return 0

    return reported(out, work)


def list_command(settings: Settings, *, as_json: bool) -> int:
    """All keys, oldest first."""
    out = Out(as_json=as_json)

    def work() -> int:
        redis, _ = reach(settings)
        keys = Keys(redis).all()
        out.line([_shown(key) for key in keys])
        if not keys:
            out.say("No keys.")
        elif not as_json:
            table(
                out,
                ("id", "owner", "roles", "a minute", "live", "bytes", "made"),
                [_row(key) for key in keys],
            )
        return 0

    return reported(out, work)


def revoke_command(settings: Settings, key_id: str) -> int:
    """Have a key open nothing any more."""

    def work() -> int:
        redis, _ = reach(settings)
        if not Keys(redis).revoke(key_id):
            raise PermanentError(
                ErrorCode.BAD_OPTION, f"There is no key {key_id!r}; see `dualface keys list`."
            )
        print(f"{key_id} opens nothing any more.")
        return 0

    return reported(Out(as_json=False), work)


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError as error:
        known = ", ".join(role.value for role in Role)
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"--role: {text!r} is none of {known}."
        ) from error


def _shown(key: ApiKey) -> dict[str, object]:
    """For programs; the secret of webhooks goes to nobody."""
    shown: dict[str, object] = json.loads(key.model_dump_json(exclude={"webhook_secret"}))
    return shown


def _roles(key: ApiKey) -> str:
    return ", ".join(role.value for role in key.roles)


def _row(key: ApiKey) -> tuple[str, ...]:
    limits = (key.per_minute, key.most_live, key.most_bytes)
    return (key.id, key.owner, _roles(key), *map(str, limits), _when(key))


def _when(key: ApiKey) -> str:
    return datetime.fromtimestamp(key.created_ms / 1000, UTC).strftime("%Y-%m-%d")
