"""The one door to S3: each method is one exchange with the server, neither repeated nor redirected.

Nothing else imports `minio`. Its methods for uploads in parts are private ones; the contract tests
run them against a real server, so a release that changes them is noticed there.

What goes wrong comes out as one of four:

    PassingError        the server is away, overloaded, or what it said was garbled: try again
    NotThereError       the object or the upload is not there
    StoreRefusedError   settings or rights are wrong, with the setting's name
    TemporaryError      NO_SPACE: the store is full
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import certifi
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)
from minio.datatypes import ListMultipartUploadsResult, Part
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error, ServerError
from pydantic import SecretStr
from urllib3.exceptions import (
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.response import BaseHTTPResponse

from shared.errors import ErrorCode, PermanentError, StoreRefusedError, TemporaryError
from shared.settings import Settings
from shared.storage.base import OpenUpload
from shared.storage.errands import (
    PAGE,
    BadPartsError,
    Errand,
    ForbiddenError,
    NotThereError,
    OutOfRangeError,
    PassingError,
)

AWS = "https://s3.amazonaws.com"
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
LONGEST_LINK_S = 7 * 24 * 3600
"""S3's limit."""
MOVED_BYTES = 64 << 10
"""After so many bytes sent or received it is looked whether anybody still wants them."""
CONNECTIONS = 8
METADATA_S = 2.0
"""For a machine to tell its role's credentials; where there is none, nobody answers."""

_PASSING = {
    # Statuses below 500 whose codes say that the request was garbled or came at a bad moment.
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InvalidDigest",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "XAmzContentSHA256Mismatch",
}
_FULL = {
    "QuotaExceeded",
    "InsufficientStorage",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
}
_KEYS = "DUALFACE_S3_ACCESS_KEY and DUALFACE_S3_SECRET_KEY (or ..._FILE, or the credentials of AWS)"
_REFUSALS = {
    "InvalidAccessKeyId": f"the access key is not known there; check {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key does not fit the access key; check {_KEYS}",
    "ExpiredToken": f"the credentials have expired; renew {_KEYS}",
    "InvalidToken": f"the credentials are not valid; renew {_KEYS}",
    "AccessDenied": f"these credentials may not do that; give them the rights that "
    f"docs/operations.md lists, or check {_KEYS}",
    "AllAccessDisabled": "the bucket is locked",
    "NoSuchBucket": "there is no such bucket; make it, or set DUALFACE_STORE to another",
    "InvalidBucketName": "that is no name of a bucket; set DUALFACE_STORE to s3://BUCKET/PREFIX",
    "RequestTimeTooSkewed": "this machine's clock is more than 15 minutes off the store's; set it",
    "AuthorizationHeaderMalformed": "the bucket lies in another region; set DUALFACE_S3_REGION",
    "PermanentRedirect": "the bucket lies in another region, or at another address; set "
    "DUALFACE_S3_REGION and DUALFACE_S3_ENDPOINT",
    "BadRequest": "it can't read the request; check DUALFACE_S3_REGION and DUALFACE_S3_ENDPOINT",
}
_REFUSALS |= dict.fromkeys(("Redirect", "TemporaryRedirect"), _REFUSALS["PermanentRedirect"])


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes of an object on their way. `total` is the whole object's size, `tag` its ETag."""

    total: int
    tag: str
    pieces: Iterator[bytes]


class S3Client:
    """Thread-safe. Made after a fork; does no I/O until first used."""

    def __init__(self, settings: Settings) -> None:
        """Raises PermanentError BAD_OPTION for settings that can't be right."""
        self.endpoint = settings.s3_endpoint or AWS
        self._http = _Http(settings.s3_timeout_s, settings.s3_ca_file)
        provider = _provider(settings)
        self._minio = _minio(self.endpoint, settings.s3_region, provider, self._http)
        public = settings.s3_public_endpoint or self.endpoint
        self._public = _minio(public, settings.s3_region, provider, self._http)

    # --- objects ----------------------------------------------------------------------------------

    def size(self, bucket: str, key: str, errand: Errand) -> int | None:
        """Bytes of the object, None when it is not there."""
        try:
            with self._exchange(errand, bucket):
                return self._minio.stat_object(bucket, key).size
        except NotThereError:
            return None

    @contextmanager
    def get(
        self, bucket: str, key: str, start: int, length: int | None, errand: Errand
    ) -> Iterator[Body]:
        """The object from `start` on. Raises NotThereError, OutOfRangeError."""
        with self._exchange(errand, bucket):
            # Without a range where none is needed: an empty object has none.
            response = self._minio.get_object(bucket, key, start, length or 0)
        try:
            with self._exchange(errand, bucket):
                total = _total(response, start)
            yield Body(total, response.headers.get("etag", ""), self._pieces(response, errand))
        finally:
            # Back to the pool if it was read to its end, else closed.
            if response.length_remaining != 0:
                response.close()
            response.release_conn()

    def _pieces(self, response: BaseHTTPResponse, errand: Errand) -> Iterator[bytes]:
        while True:
            with self._exchange(errand, ""):
                piece = response.read(MOVED_BYTES)
            errand.moved()
            if not piece:
                return
            yield piece

    def put(self, bucket: str, key: str, data: bytes, errand: Errand) -> None:
        """Store the bytes. The server checks them by a digest; what arrived is looked at here."""
        with self._exchange(errand, bucket):
            made = self._minio._put_object(bucket, key, data, {"Content-Type": _KIND})
        if _is_digest_of(made.etag, data):
            return
        # A store that encrypts has ETags of its own.
        if self.size(bucket, key, errand) != len(data):
            raise PassingError(f"it did not store all of {key}")

    def page(self, bucket: str, prefix: str, after: str, errand: Errand) -> list[str]:
        """Keys that begin with `prefix` and come after `after`, at most PAGE of them, in order."""
        with self._exchange(errand, bucket):
            found = self._minio._list_objects(
                bucket, prefix=prefix, start_after=after, max_keys=PAGE, encoding_type="url"
            )
            keys: list[str] = []
            for each in found:
                keys.append(each.object_name or "")
                if len(keys) == PAGE:
                    break  # without asking for the next page
            return keys

    def delete(self, bucket: str, keys: Sequence[str], errand: Errand) -> None:
        """Delete at most PAGE objects; those that are not there count as deleted."""
        with self._exchange(errand, bucket):
            objects = [DeleteObject(key) for key in keys]
            for error in self._minio._delete_objects(bucket, objects, quiet=True).error_list:
                if error.code not in ("NoSuchKey", "NoSuchVersion"):
                    raise self._judged(error.code, 0, bucket, error.message or "")

    def link(self, bucket: str, key: str, valid_s: int, name: str, errand: Errand) -> str:
        """Where anybody may GET the object, as a file called `name`."""
        with self._exchange(errand, bucket):
            return self._public.get_presigned_url(
                "GET",
                bucket,
                key,
                timedelta(seconds=min(max(valid_s, 1), LONGEST_LINK_S)),
                response_headers={"response-content-disposition": disposition(name)},
            )

    # --- uploads in parts -------------------------------------------------------------------------

    def begin(self, bucket: str, key: str, errand: Errand) -> str:
        """Begin an upload in parts; its id."""
        with self._exchange(errand, bucket):
            return self._minio._create_multipart_upload(bucket, key, {"Content-Type": _KIND})

    def part(
        self, bucket: str, key: str, upload: str, number: int, data: bytes, errand: Errand
    ) -> str:
        """Send a part; its ETag. Raises NotThereError when there is no such upload."""
        with self._exchange(errand, bucket):
            tag = self._minio._upload_part(bucket, key, data, None, upload, number)
        if not tag:
            raise PassingError(f"it did not say what it stored of {key}")
        return tag

    def part_link(
        self, bucket: str, key: str, upload: str, number: int, valid_s: int, errand: Errand
    ) -> str:
        """Where to PUT a part."""
        with self._exchange(errand, bucket):
            return self._public.get_presigned_url(
                "PUT",
                bucket,
                key,
                timedelta(seconds=min(max(valid_s, 1), LONGEST_LINK_S)),
                extra_query_params={"partNumber": str(number), "uploadId": upload},
            )

    def complete(
        self, bucket: str, key: str, upload: str, parts: Sequence[tuple[int, str]], errand: Errand
    ) -> None:
        """Make the object of its parts. Raises NotThereError, BadPartsError."""
        made = [Part(number, tag.strip('"')) for number, tag in parts]
        with self._exchange(errand, bucket):
            result = self._minio._complete_multipart_upload(bucket, key, upload, made)
        if not result.etag:
            # An answer is begun before all is done, with 200; an error can only come as its text.
            raise PassingError(f"it did not say that {key} is complete")

    def abort(self, bucket: str, key: str, upload: str, errand: Errand) -> None:
        """Drop an upload. Raises NotThereError."""
        with self._exchange(errand, bucket):
            self._minio._abort_multipart_upload(bucket, key, upload)

    def uploads(
        self, bucket: str, prefix: str, after: tuple[str, str], errand: Errand
    ) -> tuple[list[OpenUpload], tuple[str, str]]:
        """A page of the uploads that are open, and from where the next goes on ("", "": it was the
        last)."""
        query = {"uploads": "", "prefix": prefix, "encoding-type": "url", "max-uploads": str(PAGE)}
        if after[0]:
            query["key-marker"], query["upload-id-marker"] = after
        try:
            with self._exchange(errand, bucket):
                # Not by minio-py's own method: its empty delimiter makes some servers list nothing.
                response = self._minio._execute("GET", bucket, query_params={**query})
                return read_uploads(ListMultipartUploadsResult(response))
        except NotThereError:
            return [], ("", "")  # so some say that there are none

    # --- errors -----------------------------------------------------------------------------------

    @contextmanager
    def _exchange(self, errand: Errand, bucket: str) -> Iterator[None]:
        """Around every use of the connection: the four kinds of error for all that there are."""
        self._http.here.errand = errand
        try:
            yield
        except S3Error as error:
            status, message = error.response.status, error.message or ""
            raise self._judged(error.code or "", status, bucket, message) from error
        except ServerError as error:
            raise self._judged("", error.status_code, bucket, str(error)) from error
        except _NoAnswerError as error:
            raise self._judged("", error.status, bucket, error.text) from error
        except SSLError as error:
            raise self._unsafe(error) from error
        except (HTTPError, OSError) as error:
            raise PassingError(_shortly(error)) from error
        except (MinioException, ElementTree.ParseError, ValueError) as error:
            raise PassingError(f"its answer can't be read: {_shortly(error)}") from error

    def _judged(self, code: str, status: int, bucket: str, message: str) -> Exception:
        if code in ("NoSuchKey", "NoSuchUpload", "NoSuchVersion"):
            return NotThereError(code)
        if code == "InvalidRange" or status == 416:
            return OutOfRangeError(code)
        if code in ("InvalidPart", "InvalidPartOrder", "EntityTooSmall"):
            return BadPartsError(code)
        if code in _FULL or status == 507:
            return TemporaryError(
                ErrorCode.NO_SPACE, f"The store {self.endpoint} is full; free some space.", 5.0
            )
        if code in _PASSING or status in (408, 429) or (status >= 500 and status != 501):
            return PassingError(f"it answers {code or status}")
        told = _REFUSALS.get(code) or message.rstrip(". ") or "no reason is given"
        kind = ForbiddenError if code in ("AccessDenied", "NoSuchBucket") else StoreRefusedError
        return kind(
            ErrorCode.STORE_REFUSED,
            f"The store {self.endpoint} refuses (bucket {bucket}, {code or status}): {told}.",
        )

    def _unsafe(self, error: SSLError) -> Exception:
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return StoreRefusedError(
                ErrorCode.STORE_REFUSED,
                f"The store {self.endpoint} shows a certificate that is not trusted; set "
                "DUALFACE_S3_CA_FILE to the file of the authority that signed it.",
            )
        if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
            return StoreRefusedError(
                ErrorCode.STORE_REFUSED,
                f"The store {self.endpoint} does not speak TLS; if that is meant, write http:// in "
                "DUALFACE_S3_ENDPOINT.",
            )
        return PassingError(_shortly(error))


_KIND = "application/octet-stream"


class _NoAnswerError(Exception):
    """An error that is not in S3's words: of a proxy, of another kind of server, or a redirect."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class _Http(urllib3.PoolManager):
    """One try for every request, with bounded waits; tells its thread's errand when bytes move."""

    def __init__(self, timeout_s: float, ca_file: Path | None) -> None:
        if ca_file is not None and not ca_file.is_file():
            raise PermanentError(
                ErrorCode.BAD_OPTION, f"DUALFACE_S3_CA_FILE: there is no file {ca_file}."
            )
        super().__init__(
            maxsize=CONNECTIONS,
            blocksize=MOVED_BYTES,
            # The first also bounds how long sending MOVED_BYTES takes.
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s),
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(ca_file or certifi.where()),
        )
        self.here = threading.local()

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        redirect: bool = True,  # noqa: ARG002 - never followed
        **more: object,
    ) -> BaseHTTPResponse:
        """As minio-py calls it. A redirect is not followed: what is signed is for one host."""
        body = more.get("body")
        if isinstance(body, bytes) and len(body) > MOVED_BYTES:
            more["body"] = _Sending(body, self.here.errand)
        response = super().urlopen(method, url, redirect=False, retries=False, **more)
        if response.status >= 300 and method != "HEAD":
            _into_words(response)
        return response


def _into_words(response: BaseHTTPResponse) -> None:
    """See that minio-py can read what the server has to say. Raises _NoAnswerError."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/xml":
        # As good, by RFC 7303; minio-py knows only the other.
        response.headers["content-type"] = "application/xml"
    elif kind != "application/xml":
        text = "it is not in the words of S3; check DUALFACE_S3_ENDPOINT"
        if response.status < 400:
            where = urlsplit(response.headers.get("location", ""))
            text = (
                f"it redirects to {where.scheme}://{where.netloc}; set DUALFACE_S3_ENDPOINT to it"
            )
        response.close()
        raise _NoAnswerError(response.status, text)


class _Sending(io.BytesIO):
    """A body that is sent in blocks, so that a slow line is told from one that hangs."""

    def __init__(self, data: bytes, errand: Errand) -> None:
        super().__init__(data)
        self._errand = errand

    def read(self, size: int | None = -1, /) -> bytes:
        self._errand.moved()
        return super().read(size)


class _Chain(Provider):
    """Credentials from where AWS's own programs look for them; the first that has some."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._providers = list(providers)

    def retrieve(self) -> Credentials:
        """Raises StoreRefusedError when there are none."""
        for provider in self._providers:
            try:
                found = provider.retrieve()
            except (ValueError, KeyError, OSError, HTTPError):
                continue
            self._providers = [provider]
            return found
        raise StoreRefusedError(
            ErrorCode.STORE_REFUSED, f"There are no credentials for the store; set {_KEYS}."
        )


def disposition(name: str) -> str:
    """A Content-Disposition that saves the file as `name` (RFC 6266)."""
    plain = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\/%' else "_" for c in name
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def read_uploads(found: ListMultipartUploadsResult) -> tuple[list[OpenUpload], tuple[str, str]]:
    """A page of ListMultipartUploads, and where the next begins; ("", "") after the last."""
    uploads = [
        OpenUpload(each.object_name, each.upload_id, each.initiated_time)
        for each in found.uploads
        if each.upload_id and each.initiated_time is not None
    ]
    if not found.is_truncated or not found.uploads:
        return uploads, ("", "")
    # Its last line: minio-py 7.2 loses the marker of the upload.
    last = found.uploads[-1]
    return uploads, (last.object_name, last.upload_id or "")


def _minio(endpoint: str, region: str, provider: Provider, http: _Http) -> Minio:
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    try:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{endpoint} is not like https://HOST:PORT")
        if not region and not parts.hostname.endswith(_AWS_HOSTS):
            region = "us-east-1"  # what others take; to ask needs a right of its own
        return Minio(
            parts.netloc + parts.path.rstrip("/"),
            secure=parts.scheme == "https",
            region=region or None,
            http_client=http,
            credentials=provider,
        )
    except ValueError as error:
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"DUALFACE_S3_ENDPOINT or DUALFACE_S3_REGION: {error}."
        ) from error


def _provider(settings: Settings) -> Provider:
    access = _secret("ACCESS_KEY", settings.s3_access_key, settings.s3_access_key_file)
    secret = _secret("SECRET_KEY", settings.s3_secret_key, settings.s3_secret_key_file)
    if access and secret:
        return StaticProvider(access, secret)
    if access or secret:
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            "DUALFACE_S3_ACCESS_KEY and DUALFACE_S3_SECRET_KEY (or ..._FILE) belong together; one "
            "of them is not set.",
        )
    asking = urllib3.PoolManager(timeout=METADATA_S, retries=False)
    return _Chain((EnvAWSProvider(), AWSConfigProvider(), IamAwsProvider(http_client=asking)))


def _secret(name: str, value: SecretStr, file: Path | None) -> str:
    if value.get_secret_value() or file is None:
        return value.get_secret_value()
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"DUALFACE_S3_{name}_FILE: {file} can't be read."
        ) from error


def _total(response: BaseHTTPResponse, start: int) -> int:
    """Size of the whole object. Some servers answer a range with 200 instead of 206; but a range
    must be what was asked for. Raises ValueError."""
    told = response.headers.get("content-range", "")
    if told:
        span, _, total = told.removeprefix("bytes ").partition("/")
        if int(span.partition("-")[0]) != start:
            raise ValueError(f"{told} is not from {start} on")
        return int(total)
    if start:
        raise ValueError("it knows no ranges")
    return int(response.headers["content-length"])


def _is_digest_of(tag: str | None, data: bytes) -> bool:
    return tag == hashlib.md5(data, usedforsecurity=False).hexdigest()


_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (NameResolutionError, "its name is not known"),
    (NewConnectionError, "no connection"),
    (HTTPTimeoutError, "no answer"),
    (TimeoutError, "no answer"),
    (ProtocolError, "the connection broke off"),
    (ElementTree.ParseError, "it is no XML"),
)


def _shortly(error: BaseException) -> str:
    """What is wrong, in few words."""
    return next(
        (words for kind, words in _WORDS if isinstance(error, kind)),
        " ".join(str(error).split())[:200] or type(error).__name__,
    )
