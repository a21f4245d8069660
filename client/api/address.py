"""Where the service is, and with which key."""

from __future__ import annotations

import json
from typing import NamedTuple

import httpx

from client.api.checks import checked_key, checked_url
from shared.errors import ErrorCode, PermanentError
from shared.settings import Settings


class Address(NamedTuple):
    """`url` without a path; `key` is "" where there is none."""

    url: str
    key: str


def find_address(settings: Settings | None = None) -> Address:
    """The service of DUALFACE_API_URL, else the local stack that is up.

    `settings` default to those of the environment. Raises PermanentError STACK_FAILED when there is
    neither.
    """
    settings = settings or Settings.load()
    if settings.api_url:
        return Address(settings.api_url, settings.api_key.get_secret_value())
    try:
        found = json.loads((settings.state_dir / "stack.json").read_text())
        url, key = str(found["api_url"]), str(found["api_key"])
    except (OSError, ValueError, KeyError, TypeError):
        url, key = "", ""
    if not url:
        raise PermanentError(
            ErrorCode.STACK_FAILED,
            f"No stack is up with the state folder {settings.state_dir}; start one by "
            "`dualface up`, or set DUALFACE_API_URL and DUALFACE_API_KEY.",
        )
    return Address(url, settings.api_key.get_secret_value() or key)


def address_for(url: str | None, key: str | None) -> Address:
    """What was given, completed by what is found. A key goes nowhere but where it belongs to: the
    environment's is not sent to another address than the environment's.

    Raises PermanentError BAD_OPTION for an address or a key that is none.
    """
    if url is None:
        found = find_address()
        found = found if key is None else Address(found.url, key)
    elif key is not None:
        found = Address(url, key)
    else:
        settings = Settings.load()
        known = settings.api_key.get_secret_value() if settings.api_url == url else ""
        found = Address(url, known)
    return Address(checked_url(found.url), checked_key(found.key))


def is_loopback(url: str) -> bool:
    """True for this machine's own address: no proxy of the environment leads there."""
    host = httpx.URL(url).host
    return host in ("localhost", "::1") or host.startswith("127.")
