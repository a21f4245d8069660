"""Files from https addresses, piece by piece: models may have hundreds of MB."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import IO

from shared.errors import ErrorCode, PermanentError
from shared.models.draft import MODEL_BYTES_MAX, too_large

URL_TIMEOUT_S = 30.0
"""For connecting and for each read."""

PIECE_BYTES = 1 << 20

HTTPS = "https://"


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to an address that anybody on the way could answer for."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        """See the base class."""
        if not newurl.startswith(HTTPS):
            raise urllib.error.URLError("it leads to an address without https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(url: str, advice: str) -> Iterator[bytes]:
    """The pieces of what lies there; `advice` ends the sentence of an error, after a semicolon.

    Blocks for URL_TIMEOUT_S without an answer. Raises PermanentError: BAD_OPTION for an address
    without https, TOO_LARGE when it says so beforehand, MODEL_MISSING when it can't be fetched.
    """
    if not url.startswith(HTTPS):
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"{url} is no https:// address; nothing else is fetched from"
        )
    try:
        opener = urllib.request.build_opener(_OnlyHttps)
        with opener.open(url, timeout=URL_TIMEOUT_S) as answer:
            length = answer.headers.get("Content-Length", "")
            expected = int(length) if length.isdigit() else None
            if expected is not None and expected > MODEL_BYTES_MAX:
                raise too_large()
            yield from _pieces(answer, expected)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise PermanentError(
            ErrorCode.MODEL_MISSING, f"{url} could not be downloaded ({reason}); {advice}"
        ) from error


def _pieces(answer: http.client.HTTPResponse, expected: int | None) -> Iterator[bytes]:
    received = 0
    while piece := answer.read(PIECE_BYTES):
        received += len(piece)
        yield piece
    # http.client says nothing when a server goes in the middle of pieces
    if expected is not None and received != expected:
        raise http.client.IncompleteRead(b"", expected - received)
