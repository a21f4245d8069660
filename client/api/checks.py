"""What of a person's goes into requests, looked at before anything is sent. All raise
PermanentError BAD_OPTION."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from shared.errors import ErrorCode, PermanentError
from shared.jobs import JOB_ID

MOST = 255
"""Characters of a header field that a person chooses."""
FIELD = re.compile(r"[!-~]([ -~]*[!-~])?")
KEY = re.compile(r"[!-~]*")


def checked_id(text: str) -> str:
    """An id of a job or upload: what else goes into a path may lead to somewhere else, also with
    its slashes as %2F."""
    if not JOB_ID.fullmatch(text):
        raise _bad(f"{_shown(text)} is no job's id; `dualface list` shows them.")
    return text


def checked_field(what: str, text: str) -> str:
    """A header field's value; `what` begins the sentence."""
    if len(text) > MOST or not FIELD.fullmatch(text):
        raise _bad(
            f"{what} is to be 1 to {MOST} printable ASCII characters, with no blank before or "
            f"behind them; {_shown(text)} is not."
        )
    return text


def checked_key(key: str) -> str:
    """An API key, or "". It is not shown."""
    if not KEY.fullmatch(key):
        raise _bad(
            "The API key (DUALFACE_API_KEY) is none: it has blanks or signs that no key has; "
            "`dualface keys add` makes one."
        )
    return key


def checked_url(url: str) -> str:
    """The address of a service, to which paths are added."""
    # Of `user:password@` people and their logs see nothing.
    shown = re.sub("//.*@", "//...@", url)
    wrong = _bad(f"The service's address {_shown(shown)} is not of the form https://HOST[:PORT].")
    try:
        parsed = httpx.URL(url)
        # As connecting does, where it would be no error of the network's.
        parsed.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise wrong from error
    more = parsed.userinfo or parsed.query or parsed.fragment or {"?", "#", " "} & {*url}
    if parsed.scheme not in ("http", "https") or not parsed.host or more:
        raise wrong
    return url


def check_text(what: str, value: object) -> None:
    """Arguments and names of files need not be text, and what is sent has to be."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _bad(f"{what}: {_shown(value)} is no text (UTF-8).") from error


@contextmanager
def usable_environment() -> Iterator[None]:
    """While what the environment says of proxies and certificates is taken up."""
    try:
        yield
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        raise _bad(
            "A proxy or file of certificates of the environment (HTTP_PROXY, HTTPS_PROXY, "
            f"ALL_PROXY, SSL_CERT_FILE, SSL_CERT_DIR) can't be used: {error}."
        ) from error


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _bad(sentence: str) -> PermanentError:
    return PermanentError(ErrorCode.BAD_OPTION, sentence)
