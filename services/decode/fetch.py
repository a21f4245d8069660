"""Bring a source from elsewhere into the store, within limits: by https from hosts on a list, or
from a bucket on another.

Nothing that a server says is trusted: neither how long its file is, nor what kind it is, nor where
it says that the file lies now. What is fetched is a row of bytes; the probe decides what it is.
Only `shown` addresses get into sentences and logs: what stands behind a `?` may be a secret.
"""

from __future__ import annotations

import errno
import re
import shutil
import string
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urljoin

import httpcore

from shared.dial import SLICE_S, Dialer, Resolve, resolve, trusting
from shared.errors import ErrorCode, PermanentError, TemporaryError, WorkOverError
from shared.logs import Log
from shared.media.bounds import too_large
from shared.references import (
    BucketSource,
    HostRule,
    Network,
    WebSource,
    check_bucket,
    check_host,
    host_rules,
    read_source,
)
from shared.runtime import Runtime
from shared.settings import MIB, Settings, SourceLimits
from shared.storage import open_buckets

REDIRECTED = (301, 302, 303, 307, 308)
REFUSED = (401, 402, 403, 407, 451)
GONE = (404, 410)
PASSING = (408, 416, 425, 429)
"""Beside 5xx, what another try may mend."""

PROGRESS_BYTES = MIB
"""A try that gets so much further than all before it does not count as a failed one."""

RESERVE_BYTES = 256 * MIB
"""Of the disk that are not a source's: Redis may write its file there."""
LOOK_EVERY_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one fetch may take. Those with a default are no setting: they say when a connection
    counts as dead, which depends on networks and not on videos."""

    size_bytes: int
    total_s: float
    bytes_per_s: int
    window_s: float = 30.0
    """Over which `bytes_per_s` is measured."""
    connect_s: float = 10.0
    """For the name, for each address, for TLS."""
    idle_s: float = 30.0
    """Until the next byte."""
    answer_s: float = 60.0
    """For one request, from the name to the end of the answer's head."""
    tries: int = 5
    """In a row that get no further."""
    pause_s: float = 1.0
    """Before the second try; doubled with each, up to 16 times as long."""
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class Terms:
    """Where from and within which limits sources are fetched."""

    rules: tuple[HostRule, ...]
    networks: tuple[Network, ...]
    limits: FetchLimits
    ca: Path | None = None

    @classmethod
    def of(cls, settings: Settings, limits: SourceLimits) -> Terms:
        """As a person set them."""
        chosen = FetchLimits(limits.size_bytes, limits.fetch_s, settings.source_bytes_per_s)
        rules = host_rules(settings.source_hosts)
        return cls(rules, settings.source_networks, chosen, settings.source_ca)


def fetch_source(runtime: Runtime, job: str, source: str, key: str) -> None:
    """Put what lies at the address `source` into the store, under `key`. Blocks for hours at most.

    Raises WorkOverError when the job ends meanwhile; then nothing is left. PermanentError
    BAD_OPTION, SOURCE_FORBIDDEN, SOURCE_MISSING, SOURCE_UNREACHABLE, SOURCE_UNREADABLE, TOO_LARGE;
    TemporaryError NO_SPACE.
    """
    store, step = runtime.store, partial(runtime.checkpoint, job)
    found = read_source(source)
    terms = Terms.of(runtime.settings, SourceLimits.load())
    log = Log(stage="decode", job=job)
    with store.scratch() as folder:
        file = folder / "source"
        if isinstance(found, WebSource):
            fetch(found, file, terms, step, log=log)
        else:
            _fetch_object(found, file, runtime.settings, terms.limits, step)
        log.info("source fetched", source=found.shown, bytes=file.stat().st_size)
        store.put(key, file)
    if not runtime.ledger.is_live(job):
        store.delete(key)  # the job ended meanwhile, and was cleaned up after
        raise WorkOverError(job)


def fetch(
    source: WebSource,
    path: Path,
    terms: Terms,
    step: Callable[[], None],
    *,
    resolver: Resolve = resolve,
    log: Log | None = None,
) -> None:
    """The bytes at `source` into the new file `path`.

    `step` is called several times a second, also while nothing comes; what it raises ends the
    fetch. Raises as `fetch_source`.
    """
    watch = _Watch(terms.limits, step)
    with path.open("xb", buffering=0) as file:
        _Fetch(source, file, path.parent, terms, watch, resolver, log or Log()).run()


def _fetch_object(
    source: BucketSource,
    path: Path,
    settings: Settings,
    limits: FetchLimits,
    step: Callable[[], None],
) -> None:
    """As `fetch`, from a bucket of the S3 server, whose name and speed are the operator's."""
    check_bucket(source, settings.s3_buckets)
    watch = _Watch(limits, step)
    open_buckets(settings).fetch(
        source.bucket, source.key, path, limits.size_bytes, lambda _: watch.look()
    )


class _BrokenError(Exception):
    """This try led to nothing; another one may. `delay_s`: what the server asked for."""

    def __init__(self, why: str, delay_s: float = 0.0) -> None:
        super().__init__(why)
        self.delay_s = delay_s


class _Watch:
    """Says `step` again and again, and when something takes too long."""

    def __init__(self, limits: FetchLimits, step: Callable[[], None]) -> None:
        self._limits = limits
        self._step = step
        self._end = time.monotonic() + limits.total_s
        self._since = time.monotonic()
        self._bytes: int | None = None

    def await_answer(self) -> None:
        """A request begins."""
        self._since, self._bytes = time.monotonic(), None

    def await_bytes(self) -> None:
        """The answer's head is there."""
        self._since, self._bytes = time.monotonic(), 0

    def got(self, count: int) -> None:
        """So many bytes of the file have come."""
        if self._bytes is not None:
            self._bytes += count

    def look(self) -> None:
        """Raises what `step` raises, and PermanentError when the time is over."""
        self._step()
        if time.monotonic() > self._end:
            raise PermanentError(
                ErrorCode.SOURCE_UNREACHABLE,
                f"The source was not there after {self._limits.total_s:g} s, which is the longest "
                "that fetching it may take (DUALFACE_SOURCE_MAX_FETCH_S).",
            )

    def tick(self) -> None:
        """As `look`; also raises _BrokenError when the server lets us wait."""
        self.look()
        now = time.monotonic()
        limits, took = self._limits, now - self._since
        if self._bytes is None:
            if took > limits.answer_s:
                raise _BrokenError(f"it did not answer within {limits.answer_s:g} s")
        elif took > limits.window_s:
            if self._bytes < limits.bytes_per_s * limits.window_s:
                raise _BrokenError(
                    f"it sends less than {limits.bytes_per_s} bytes/s (DUALFACE_SOURCE_BYTES_PER_S)"
                )
            self._since, self._bytes = now, 0

    def pause(self, seconds: float) -> None:
        """Wait."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.look()
            time.sleep(min(SLICE_S, left))


@dataclass(frozen=True, slots=True)
class _Version:
    """Which version of a file an answer is of. `validator` is for If-Range: None when the server
    gives nothing that would tell one version from the next."""

    validator: str | None
    total: int | None


class _Fetch:
    """One fetch: tries until the file is whole."""

    def __init__(
        self,
        source: WebSource,
        file: BinaryIO,
        folder: Path,
        terms: Terms,
        watch: _Watch,
        resolver: Resolve,
        log: Log,
    ) -> None:
        self._source = source
        self._file = file
        self._folder = folder
        self._terms = terms
        self._watch = watch
        self._log = log.bind(source=source.shown)
        self._context = trusting(terms.ca)
        self._dialer = Dialer(terms.networks, watch.tick, resolver)
        self._version = _Version(None, None)
        self._size = 0
        self._look_at = 0

    def run(self) -> None:
        """Raises PermanentError SOURCE_UNREACHABLE after too many tries that got no further."""
        limits = self._terms.limits
        tries = furthest = 0
        while True:
            try:
                self._try_once()
                return
            except _BrokenError as error:
                tries = 1 if self._size >= furthest + PROGRESS_BYTES else tries + 1
                furthest = max(furthest, self._size)
                self._log.warning("fetch broken", reason=str(error), bytes=self._size, tries=tries)
                if tries >= limits.tries:
                    raise PermanentError(
                        ErrorCode.SOURCE_UNREACHABLE,
                        f"{self._source.shown} could not be fetched: {error}, {tries} times.",
                    ) from error
                self._watch.pause(max(limits.pause_s * 2 ** min(tries - 1, 4), error.delay_s))

    def _try_once(self) -> None:
        target = self._source
        for _ in range(self._terms.limits.redirects + 1):
            check_host(target, self._terms.rules)
            with self._answer(target) as response:
                headers = _plain(response)
                if response.status not in REDIRECTED:
                    self._check_status(response.status, headers)
                    self._receive(response, headers)
                    return
                target = _redirected(target, headers.get("location", ""))
        raise PermanentError(
            ErrorCode.SOURCE_FORBIDDEN,
            f"{self._source.shown} leads on from one address to the next more than "
            f"{self._terms.limits.redirects} times.",
        )

    @contextmanager
    def _answer(self, target: WebSource) -> Iterator[httpcore.Response]:
        """The answer's head is there; its body can be read."""
        limits = self._terms.limits
        times = {"connect": limits.connect_s, "read": limits.idle_s, "write": limits.idle_s}
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.target
        )
        self._watch.await_answer()
        try:
            with (
                httpcore.ConnectionPool(
                    self._context, max_connections=1, network_backend=self._dialer
                ) as pool,
                pool.stream(
                    "GET", url, headers=self._asking(target), extensions={"timeout": times}
                ) as response,
            ):
                yield response
        except (httpcore.TimeoutException, httpcore.NetworkError) as error:
            raise _BrokenError(str(error)) from error  # words of `dial`
        except httpcore.ProtocolError as error:
            raise _BrokenError("its answer breaks off, or is no HTTP") from error

    def _asking(self, target: WebSource) -> list[tuple[str, str]]:
        fields = [
            ("Host", target.authority),
            ("User-Agent", "dualface"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        if self._size and self._version.validator is not None:
            fields.append(("Range", f"bytes={self._size}-"))
            fields.append(("If-Range", self._version.validator))
        return fields

    def _check_status(self, status: int, headers: Mapping[str, str]) -> None:
        shown = self._source.shown
        if status in (200, 206):
            return
        if status in GONE:
            raise PermanentError(
                ErrorCode.SOURCE_MISSING, f"{shown} is not there: its server answered {status}."
            )
        if status in REFUSED:
            raise PermanentError(
                ErrorCode.SOURCE_FORBIDDEN,
                f"The server refused {shown} ({status}): give an address that needs no password "
                "and has not expired.",
            )
        if status in PASSING or status >= 500:
            if status == 416:
                self._begin_anew(_Version(None, None))
            raise _BrokenError(f"its server answered {status}", _asked_delay_s(headers))
        raise PermanentError(
            ErrorCode.SOURCE_UNREACHABLE, f"The server of {shown} answered {status}, and no file."
        )

    def _receive(self, response: httpcore.Response, headers: Mapping[str, str]) -> None:
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise PermanentError(
                ErrorCode.SOURCE_UNREADABLE,
                f"The server of {self._source.shown} sends it packed, which it was asked not to: "
                "store the video there as it is.",
            )
        rest = _whole(headers.get("content-length"))
        if response.status == 206:
            self._go_on(headers)
        else:
            self._begin_anew(_Version(_validator(headers), rest))
        total = None if rest is None else self._size + rest
        self._check_size(total or 0)
        self._check_disk((total or 0) - self._size)
        self._watch.await_bytes()
        for part in response.iter_stream():
            self._watch.got(len(part))
            self._check_size(self._size + len(part))
            self._write(part)

    def _go_on(self, headers: Mapping[str, str]) -> None:
        """See that a part is the part that was asked for, of the same version."""
        found = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", headers.get("content-range", ""))
        version = self._version
        tag = headers.get("etag", version.validator)
        same = version.validator is not None and (
            not version.validator.startswith('"') or tag == version.validator
        )
        known = version.total is None or (
            found is not None and found[2] in ("*", str(version.total))
        )
        if found is None or int(found[1]) != self._size or not (same and known):
            self._begin_anew(_Version(None, None))
            raise _BrokenError("it sends another part than was asked for")

    def _begin_anew(self, version: _Version) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._size = self._look_at = 0
        self._version = version

    def _check_size(self, size_bytes: int) -> None:
        most = self._terms.limits.size_bytes
        if size_bytes > most:
            raise too_large(
                f"{self._source.shown} has more bytes than the {most}",
                "size_bytes",
                "cut or compress it first",
            )

    def _check_disk(self, needed_bytes: int) -> None:
        if _free_bytes(self._folder) - RESERVE_BYTES < needed_bytes:
            raise _no_space()
        self._look_at = self._size + LOOK_EVERY_BYTES

    def _write(self, part: bytes) -> None:
        if self._size + len(part) > self._look_at:
            self._check_disk(len(part))
        rest = memoryview(part)
        try:
            while rest:
                written = self._file.write(rest)
                rest = rest[written:]
                self._size += written
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _no_space() from error
            raise


def _plain(response: httpcore.Response) -> dict[str, str]:
    """Header fields by lower-case names; of several the first."""
    found: dict[str, str] = {}
    for name, value in response.headers:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


def _redirected(source: WebSource, location: str) -> WebSource:
    """Where an answer leads on to. Raises PermanentError SOURCE_FORBIDDEN when that is not to be
    followed; whether its host is on the list is for the caller."""
    try:
        # Servers send letters and blanks as they are.
        found = read_source(urljoin(source.url, quote(location.strip(), safe=string.punctuation)))
    except (ValueError, PermanentError) as error:
        raise _astray(source) from error
    if not isinstance(found, WebSource) or (source.scheme, found.scheme) == ("https", "http"):
        raise _astray(source)
    return found


def _astray(source: WebSource) -> PermanentError:
    return PermanentError(
        ErrorCode.SOURCE_FORBIDDEN,
        f"{source.shown} leads on to an address that is not https://, which is not followed.",
    )


def _validator(headers: Mapping[str, str]) -> str | None:
    """What tells this version of a file from any other one, byte by byte (RFC 9110, 8.8)."""
    tag = headers.get("etag", "")
    if re.fullmatch(r'"[!#-~\x80-\xff]*"', tag):
        return tag
    try:
        modified = parsedate_to_datetime(headers["last-modified"])
        answered = parsedate_to_datetime(headers["date"])
        # A file that was changed just now may change again within the same second.
        settled = (answered - modified).total_seconds() >= 1
    except (KeyError, ValueError, TypeError):
        return None
    return headers["last-modified"] if settled else None


def _asked_delay_s(headers: Mapping[str, str]) -> float:
    asked = _whole(headers.get("retry-after"))
    return 0.0 if asked is None else min(asked, 30)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text.strip()) else None


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _no_space() -> TemporaryError:
    return TemporaryError(
        ErrorCode.NO_SPACE,
        "The disk has not room enough for the source; free some space and repeat.",
        5.0,
    )
